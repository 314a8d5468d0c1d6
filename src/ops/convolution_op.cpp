// graticule::convolution, graticule::convolution_with_halo, which autograd calls instead where the weight needs a
// gradient, graticule::convolution_halo, for those who call backward without it, and graticule::convolution_backward:
// schemas, shapes, autograd and autocast.
#include "ops/convolution_op.hpp"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <map>
#include <utility>

#include "graticule/comm/domain.hpp"
#include "graticule/halo/memory_format.hpp"
#include "graticule/ops/convolution.hpp"
#include "ops/autograd_support.hpp"
#include "ops/convolution_arguments.hpp"
#include "ops/convolution_call.hpp"
#include "ops/convolution_path.hpp"
#include "ops/local_convolution.hpp"

namespace graticule::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

using ArgumentsPointer = std::shared_ptr<const ConvolutionArguments>;

// What backward is told.
struct Saved : torch::CustomClassHolder {
  ArgumentsPointer arguments;
  bool has_bias = false;
  bool keeps_halo = false;
  ConvolutionHalo halo;  // on its way out of a forward, else of no tensors

  Saved(ArgumentsPointer a, bool keeps) : arguments(std::move(a)), keeps_halo(keeps) {}
};

#define GRATICULE_CONVOLUTION_ARGUMENTS                                                                        \
  at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,                  \
      at::IntArrayRef output_padding, int64_t groups, at::IntArrayRef in_offsets, at::IntArrayRef out_offsets, \
      int64_t dim, c10::string_view group, c10::string_view layer, c10::string_view row_boundary,              \
      c10::string_view across_boundary
#define GRATICULE_FIND_ARGUMENTS                                                                                      \
  find_arguments({stride, padding, dilation, transposed, output_padding, groups, in_offsets, out_offsets, dim, group, \
                  layer, boundary_of(row_boundary), boundary_of(across_boundary)})

rows::Boundary boundary_of(c10::string_view name) {
  return name == "zeros" ? rows::Boundary::zeros : rows::boundary_from_name(std::string(name), true);
}

const char* name_of(rows::Boundary boundary) {
  switch (boundary) {
    case rows::Boundary::reflect:
      return "reflect";
    case rows::Boundary::replicate:
      return "replicate";
    case rows::Boundary::circular:
      return "circular";
    default:
      return "zeros";
  }
}

using WithHalo = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

WithHalo call_with_halo(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                        const ConvolutionArguments& a) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("graticule::convolution_with_halo", "")
                             .typed<WithHalo(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                                             at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, bool, at::IntArrayRef,
                                             int64_t, at::IntArrayRef, at::IntArrayRef, int64_t, c10::string_view,
                                             c10::string_view, c10::string_view, c10::string_view)>();
  const auto& o = a.options;
  const auto& p = a.placement;
  return op.call(x, weight, bias, o.stride, o.padding, o.dilation, o.transposed, o.output_padding, o.groups,
                 p.input.offsets(), p.output.offsets(), p.dim, p.group, p.layer, name_of(o.row_boundary),
                 name_of(o.across_boundary));
}

ConvolutionGradients call_backward(const at::Tensor& grad, const at::Tensor& x, const ConvolutionHalo& halo,
                                   const at::Tensor& weight, const ConvolutionArguments& a,
                                   std::array<bool, 3> wanted) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("graticule::convolution_backward", "")
                             .typed<ConvolutionGradients(
                                 const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                 const at::Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, bool,
                                 at::IntArrayRef, int64_t, at::IntArrayRef, at::IntArrayRef, int64_t, c10::string_view,
                                 c10::string_view, c10::string_view, c10::string_view, std::array<bool, 3>)>();
  const auto& o = a.options;
  const auto& p = a.placement;
  return op.call(grad, x, halo.before, halo.after, weight, o.stride, o.padding, o.dilation, o.transposed,
                 o.output_padding, o.groups, p.input.offsets(), p.output.offsets(), p.dim, p.group, p.layer,
                 name_of(o.row_boundary), name_of(o.across_boundary), wanted);
}

at::Tensor forward_kernel(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                          GRATICULE_CONVOLUTION_ARGUMENTS) {
  const ArgumentsPointer a = GRATICULE_FIND_ARGUMENTS;
  return convolution(x, weight, bias, *a, nullptr);
}

WithHalo with_halo_kernel(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                          GRATICULE_CONVOLUTION_ARGUMENTS) {
  const ArgumentsPointer a = GRATICULE_FIND_ARGUMENTS;
  ConvolutionHalo halo;
  at::Tensor y = convolution(x, weight, bias, *a, &halo);
  return {std::move(y), std::move(halo.before), std::move(halo.after)};
}

std::tuple<at::Tensor, at::Tensor> halo_kernel(const at::Tensor& x, const at::Tensor& weight,
                                               GRATICULE_CONVOLUTION_ARGUMENTS) {
  const ArgumentsPointer a = GRATICULE_FIND_ARGUMENTS;
  auto [before, after] = convolution_halo(x, weight, *a);
  return {std::move(before), std::move(after)};
}

ConvolutionGradients backward_kernel(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& before,
                                     const at::Tensor& after, const at::Tensor& weight, GRATICULE_CONVOLUTION_ARGUMENTS,
                                     std::array<bool, 3> wanted) {
  const ArgumentsPointer a = GRATICULE_FIND_ARGUMENTS;
  auto [of_x, of_weight, of_bias] = convolution_backward(grad, x, {before, after}, weight, *a, wanted);
  // Where x and weight lie otherwise than each other, kernels give both gradients in one format. Compiled code knows of
  // none but these.
  if (of_x.defined()) of_x = of_x.contiguous(halo::memory_format(x));
  if (of_weight.defined()) of_weight = of_weight.contiguous(halo::memory_format(weight));
  return {std::move(of_x), std::move(of_weight), std::move(of_bias)};
}

at::Tensor forward_meta(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& /*bias*/,
                        GRATICULE_CONVOLUTION_ARGUMENTS) {
  const ArgumentsPointer a = GRATICULE_FIND_ARGUMENTS;
  const int rank = comm::Domain::from_group_name(a->placement.group).rank();
  return convolution_shape(x, weight, a->options, a->placement, rank);
}

WithHalo with_halo_meta(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& /*bias*/,
                        GRATICULE_CONVOLUTION_ARGUMENTS) {
  const ArgumentsPointer a = GRATICULE_FIND_ARGUMENTS;
  const int rank = comm::Domain::from_group_name(a->placement.group).rank();
  auto [before, after] = convolution_halo_shape(x, weight, a->options, a->placement, rank);
  return {convolution_shape(x, weight, a->options, a->placement, rank), std::move(before), std::move(after)};
}

ConvolutionGradients backward_meta(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& /*before*/,
                                   const at::Tensor& /*after*/, const at::Tensor& weight,
                                   GRATICULE_CONVOLUTION_ARGUMENTS, std::array<bool, 3> wanted) {
  (void)stride, (void)padding, (void)dilation, (void)transposed, (void)output_padding, (void)groups;
  (void)in_offsets, (void)out_offsets, (void)dim, (void)group, (void)layer, (void)row_boundary, (void)across_boundary;
  const auto gradient_of = [](const at::Tensor& t) { return halo::empty_with(t, t.sizes()); };
  return {wanted[0] ? gradient_of(x) : at::Tensor(), wanted[1] ? gradient_of(weight) : at::Tensor(),
          wanted[2] ? at::empty({grad.size(1)}, grad.options()) : at::Tensor()};
}

struct ConvolutionFunction : torch::autograd::Function<ConvolutionFunction> {
  // Leaves the halo in the arguments: as an output it would be given a gradient of zeros.
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& weight,
                          const std::optional<at::Tensor>& bias, const c10::intrusive_ptr<Saved>& a) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    a->has_bias = bias.has_value() && bias->defined();
    ctx->saved_data["arguments"] = c10::IValue::make_capsule(a);
    if (!a->keeps_halo) {
      ctx->save_for_backward({x, weight});
      return call_convolution(x, weight, bias, a->arguments->options, a->arguments->placement);
    }
    auto [y, before, after] = call_with_halo(x, weight, bias, *a->arguments);
    ctx->save_for_backward({x, weight, before, after});
    a->halo = {std::move(before), std::move(after)};
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto& a = static_cast<const Saved&>(*ctx->saved_data["arguments"].toCapsule());
    const variable_list saved = ctx->get_saved_variables();
    const std::array<bool, 3> wanted{ctx->needs_input_grad(0), ctx->needs_input_grad(1),
                                     a.has_bias && ctx->needs_input_grad(2)};
    const ConvolutionHalo halo = a.keeps_halo ? ConvolutionHalo{saved[2], saved[3]} : no_halo(saved[0]);
    auto [grad_x, grad_weight, grad_bias] = call_backward(grads[0], saved[0], halo, saved[1], *a.arguments, wanted);
    return {grad_x, grad_weight, grad_bias, Variable()};
  }

 private:
  static ConvolutionHalo no_halo(const at::Tensor& x) {
    return {at::empty({0}, x.options()), at::empty({0}, x.options())};
  }
};

at::Tensor forward_autograd(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                            GRATICULE_CONVOLUTION_ARGUMENTS) {
  const bool keeps_halo = c10::GradMode::is_enabled() && weight.requires_grad();
  const auto a = c10::make_intrusive<Saved>(GRATICULE_FIND_ARGUMENTS, keeps_halo);
  at::Tensor y = ConvolutionFunction::apply(x, weight, bias, a);
  a->halo = {};
  return y;
}

WithHalo with_halo_autograd(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                            GRATICULE_CONVOLUTION_ARGUMENTS) {
  const auto a = c10::make_intrusive<Saved>(GRATICULE_FIND_ARGUMENTS, /*keeps=*/true);
  at::Tensor y = ConvolutionFunction::apply(x, weight, bias, a);
  const ConvolutionHalo halo = std::exchange(a->halo, {});
  return {std::move(y), halo.before, halo.after};
}

ConvolutionGradients backward_autograd(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& before,
                                       const at::Tensor& after, const at::Tensor& weight,
                                       GRATICULE_CONVOLUTION_ARGUMENTS, std::array<bool, 3> wanted) {
  const ArgumentsPointer a = GRATICULE_FIND_ARGUMENTS;
  refuse_double_backward(a->placement.layer, {grad, x, before, after, weight});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(grad, x, {before, after}, weight, *a, wanted);
}

template <c10::DeviceType device>
at::Tensor forward_autocast(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                            GRATICULE_CONVOLUTION_ARGUMENTS) {
  const c10::impl::ExcludeDispatchKeyGuard guard(at::autocast::get_autocast_dispatch_key_from_device_type(device));
  const at::ScalarType type = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const at::Tensor& t) { return at::autocast::cached_cast(type, t, device); };
  const std::optional<at::Tensor> low_bias = bias.has_value() && bias->defined() ? std::optional(cast(*bias)) : bias;
  const ArgumentsPointer a = GRATICULE_FIND_ARGUMENTS;
  return call_convolution(cast(x), cast(weight), low_bias, a->options, a->placement);
}

}  // namespace

at::Tensor call_convolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                            const ConvolutionOptions& o, const Placement& p) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("graticule::convolution", "")
                             .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                                               at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, bool, at::IntArrayRef,
                                               int64_t, at::IntArrayRef, at::IntArrayRef, int64_t, c10::string_view,
                                               c10::string_view, c10::string_view, c10::string_view)>();
  return op.call(x, weight, bias, o.stride, o.padding, o.dilation, o.transposed, o.output_padding, o.groups,
                 p.input.offsets(), p.output.offsets(), p.dim, p.group, p.layer, name_of(o.row_boundary),
                 name_of(o.across_boundary));
}

TORCH_LIBRARY_FRAGMENT(graticule, m) {
  m.def(
      "convolution(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, bool "
      "transposed, int[] output_padding, int groups, int[] in_offsets, int[] out_offsets, int dim, str group, "
      "str layer, str row_boundary=\"zeros\", str across_boundary=\"zeros\") -> Tensor");
  m.def(
      "convolution_with_halo(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, bool "
      "transposed, int[] output_padding, int groups, int[] in_offsets, int[] out_offsets, int dim, str group, "
      "str layer, str row_boundary, str across_boundary) -> (Tensor, Tensor, Tensor)");
  m.def(
      "convolution_halo(Tensor x, Tensor weight, int[] stride, int[] padding, int[] dilation, bool transposed, "
      "int[] output_padding, int groups, int[] in_offsets, int[] out_offsets, int dim, str group, str layer, "
      "str row_boundary, str across_boundary) -> (Tensor, Tensor)");
  m.def(
      "convolution_backward(Tensor grad, Tensor x, Tensor before, Tensor after, Tensor weight, int[] stride, int[] "
      "padding, int[] dilation, "
      "bool transposed, int[] output_padding, int groups, int[] in_offsets, int[] out_offsets, int dim, str group, "
      "str layer, str row_boundary, str across_boundary, bool[3] wanted) -> (Tensor, Tensor, Tensor)");
  m.def("force_convolution_path(str path) -> ()", [](c10::string_view path) {
    static const std::map<std::string, ConvolutionPath> paths{{"automatic", ConvolutionPath::automatic},
                                                              {"in_place", ConvolutionPath::in_place},
                                                              {"whole_windows", ConvolutionPath::whole_windows}};
    const auto found = paths.find(std::string(path));
    TORCH_CHECK_VALUE(found != paths.end(), "expected automatic, in_place or whole_windows, got ", path);
    force_convolution_path(found->second);
  });
}

TORCH_LIBRARY_IMPL(graticule, CompositeExplicitAutograd, m) {
  m.impl("convolution", forward_kernel);
  m.impl("convolution_with_halo", with_halo_kernel);
  m.impl("convolution_halo", halo_kernel);
  m.impl("convolution_backward", backward_kernel);
}
TORCH_LIBRARY_IMPL(graticule, Meta, m) {
  m.impl("convolution", forward_meta);
  m.impl("convolution_with_halo", with_halo_meta);
  m.impl("convolution_backward", backward_meta);
}
TORCH_LIBRARY_IMPL(graticule, Autograd, m) {
  m.impl("convolution", forward_autograd);
  m.impl("convolution_with_halo", with_halo_autograd);
  m.impl("convolution_backward", backward_autograd);
}
TORCH_LIBRARY_IMPL(graticule, AutocastCPU, m) { m.impl("convolution", forward_autocast<c10::DeviceType::CPU>); }
TORCH_LIBRARY_IMPL(graticule, AutocastCUDA, m) { m.impl("convolution", forward_autocast<c10::DeviceType::CUDA>); }

}  // namespace graticule::ops

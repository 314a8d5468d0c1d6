// graticule::convolution and graticule::convolution_backward: schemas, shapes, autograd and autocast.
#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "graticule/comm/domain.hpp"
#include "graticule/ops/convolution.hpp"
#include "ops/autograd_support.hpp"

namespace graticule::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// The arguments that forward and backward share, in the order of their schemas.
struct Arguments {
  std::vector<int64_t> stride, padding, dilation;
  bool transposed;
  std::vector<int64_t> output_padding;
  int64_t groups;
  std::vector<int64_t> in_offsets, out_offsets;
  int64_t dim;
  std::string group, layer;

  [[nodiscard]] ConvolutionOptions options() const {
    return {stride, padding, dilation, transposed, output_padding, groups};
  }
  [[nodiscard]] Placement placement() const {
    return {rows::Partition(in_offsets), rows::Partition(out_offsets), dim, group, layer};
  }
};

at::Tensor call_forward(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                        const Arguments& a) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("graticule::convolution", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, at::IntArrayRef,
                            at::IntArrayRef, at::IntArrayRef, bool, at::IntArrayRef, int64_t, at::IntArrayRef,
                            at::IntArrayRef, int64_t, c10::string_view, c10::string_view)>();
  return op.call(x, weight, bias, a.stride, a.padding, a.dilation, a.transposed, a.output_padding, a.groups,
                 a.in_offsets, a.out_offsets, a.dim, a.group, a.layer);
}

Gradients call_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight, const Arguments& a,
                        std::array<bool, 3> wanted) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("graticule::convolution_backward", "")
          .typed<Gradients(const at::Tensor&, const at::Tensor&, const at::Tensor&, at::IntArrayRef, at::IntArrayRef,
                           at::IntArrayRef, bool, at::IntArrayRef, int64_t, at::IntArrayRef, at::IntArrayRef, int64_t,
                           c10::string_view, c10::string_view, std::array<bool, 3>)>();
  return op.call(grad, x, weight, a.stride, a.padding, a.dilation, a.transposed, a.output_padding, a.groups,
                 a.in_offsets, a.out_offsets, a.dim, a.group, a.layer, wanted);
}

#define GRATICULE_CONVOLUTION_ARGUMENTS                                                                        \
  at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,                  \
      at::IntArrayRef output_padding, int64_t groups, at::IntArrayRef in_offsets, at::IntArrayRef out_offsets, \
      int64_t dim, c10::string_view group, c10::string_view layer
#define GRATICULE_COLLECT_ARGUMENTS                                                                          \
  Arguments {                                                                                                \
    stride.vec(), padding.vec(), dilation.vec(), transposed, output_padding.vec(), groups, in_offsets.vec(), \
        out_offsets.vec(), dim, std::string(group), std::string(layer)                                       \
  }

at::Tensor forward_kernel(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                          GRATICULE_CONVOLUTION_ARGUMENTS) {
  const Arguments a = GRATICULE_COLLECT_ARGUMENTS;
  return convolution(x, weight, bias, a.options(), a.placement());
}

Gradients backward_kernel(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                          GRATICULE_CONVOLUTION_ARGUMENTS, std::array<bool, 3> wanted) {
  const Arguments a = GRATICULE_COLLECT_ARGUMENTS;
  return convolution_backward(grad, x, weight, a.options(), a.placement(), wanted);
}

at::Tensor forward_meta(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& /*bias*/,
                        GRATICULE_CONVOLUTION_ARGUMENTS) {
  const Arguments a = GRATICULE_COLLECT_ARGUMENTS;
  const int rank = comm::Domain::from_group_name(a.group).rank();
  return convolution_shape(x, weight, a.options(), a.placement(), rank);
}

Gradients backward_meta(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                        GRATICULE_CONVOLUTION_ARGUMENTS, std::array<bool, 3> wanted) {
  (void)stride, (void)padding, (void)dilation, (void)transposed, (void)output_padding, (void)groups;
  (void)in_offsets, (void)out_offsets, (void)dim, (void)group, (void)layer;
  return {wanted[0] ? at::empty_like(x) : at::Tensor(), wanted[1] ? at::empty_like(weight) : at::Tensor(),
          wanted[2] ? at::empty({grad.size(1)}, grad.options()) : at::Tensor()};
}

struct ConvolutionFunction : torch::autograd::Function<ConvolutionFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& weight,
                          const std::optional<at::Tensor>& bias, const Arguments& a) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({x, weight});
    ctx->saved_data["stride"] = a.stride;
    ctx->saved_data["padding"] = a.padding;
    ctx->saved_data["dilation"] = a.dilation;
    ctx->saved_data["transposed"] = a.transposed;
    ctx->saved_data["output_padding"] = a.output_padding;
    ctx->saved_data["groups"] = a.groups;
    ctx->saved_data["in_offsets"] = a.in_offsets;
    ctx->saved_data["out_offsets"] = a.out_offsets;
    ctx->saved_data["dim"] = a.dim;
    ctx->saved_data["group"] = a.group;
    ctx->saved_data["layer"] = a.layer;
    ctx->saved_data["bias"] = bias.has_value() && bias->defined();
    return call_forward(x, weight, bias, a);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto& data = ctx->saved_data;
    const Arguments a{
        data["stride"].toIntVector(),     data["padding"].toIntVector(),        data["dilation"].toIntVector(),
        data["transposed"].toBool(),      data["output_padding"].toIntVector(), data["groups"].toInt(),
        data["in_offsets"].toIntVector(), data["out_offsets"].toIntVector(),    data["dim"].toInt(),
        data["group"].toStringRef(),      data["layer"].toStringRef()};
    const variable_list saved = ctx->get_saved_variables();
    const std::array<bool, 3> wanted{ctx->needs_input_grad(0), ctx->needs_input_grad(1),
                                     data["bias"].toBool() && ctx->needs_input_grad(2)};
    auto [grad_x, grad_weight, grad_bias] = call_backward(grads[0], saved[0], saved[1], a, wanted);
    return {grad_x, grad_weight, grad_bias, Variable()};
  }
};

at::Tensor forward_autograd(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                            GRATICULE_CONVOLUTION_ARGUMENTS) {
  return ConvolutionFunction::apply(x, weight, bias, GRATICULE_COLLECT_ARGUMENTS);
}

Gradients backward_autograd(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                            GRATICULE_CONVOLUTION_ARGUMENTS, std::array<bool, 3> wanted) {
  const Arguments a = GRATICULE_COLLECT_ARGUMENTS;
  refuse_double_backward(a.layer, {grad, x, weight});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(grad, x, weight, a, wanted);
}

template <c10::DeviceType device>
at::Tensor forward_autocast(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                            GRATICULE_CONVOLUTION_ARGUMENTS) {
  const c10::impl::ExcludeDispatchKeyGuard guard(at::autocast::get_autocast_dispatch_key_from_device_type(device));
  const at::ScalarType type = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const at::Tensor& t) { return at::autocast::cached_cast(type, t, device); };
  const std::optional<at::Tensor> low_bias = bias.has_value() && bias->defined() ? std::optional(cast(*bias)) : bias;
  return call_forward(cast(x), cast(weight), low_bias, GRATICULE_COLLECT_ARGUMENTS);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(graticule, m) {
  m.def(
      "convolution(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, bool "
      "transposed, "
      "int[] output_padding, int groups, int[] in_offsets, int[] out_offsets, int dim, str group, str layer) -> "
      "Tensor");
  m.def(
      "convolution_backward(Tensor grad, Tensor x, Tensor weight, int[] stride, int[] padding, int[] dilation, "
      "bool transposed, int[] output_padding, int groups, int[] in_offsets, int[] out_offsets, int dim, str group, "
      "str layer, bool[3] wanted) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(graticule, CompositeExplicitAutograd, m) {
  m.impl("convolution", forward_kernel);
  m.impl("convolution_backward", backward_kernel);
}
TORCH_LIBRARY_IMPL(graticule, Meta, m) {
  m.impl("convolution", forward_meta);
  m.impl("convolution_backward", backward_meta);
}
TORCH_LIBRARY_IMPL(graticule, Autograd, m) {
  m.impl("convolution", forward_autograd);
  m.impl("convolution_backward", backward_autograd);
}
TORCH_LIBRARY_IMPL(graticule, AutocastCPU, m) { m.impl("convolution", forward_autocast<c10::DeviceType::CPU>); }
TORCH_LIBRARY_IMPL(graticule, AutocastCUDA, m) { m.impl("convolution", forward_autocast<c10::DeviceType::CUDA>); }

}  // namespace graticule::ops

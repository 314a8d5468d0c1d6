#include "graticule/ops/group_norm.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <utility>

#include "graticule/comm/collectives.hpp"
#include "graticule/comm/domain.hpp"
#include "graticule/halo/memory_format.hpp"
#include "ops/autograd_support.hpp"
#include "ops/cut_checks.hpp"
#include "ops/group_norm_call.hpp"
#include "ops/group_norm_steps.hpp"

namespace graticule::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;
using Three = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Optional = std::optional<at::Tensor>;

using Call = std::shared_ptr<const GroupNormCall>;

// What backward is told.
struct Saved : torch::CustomClassHolder {
  Call call;
  explicit Saved(Call made) : call(std::move(made)) {}
};

Three forward(const at::Tensor& x, const Optional& weight, const Optional& bias, const GroupNormCall& a) {
  const comm::Domain domain = comm::Domain::from_group_name(a.group);
  check_own_rows(x, a.dim, a.in_offsets, a.layer, domain);
  const GroupNormSteps& steps = group_norm_steps(x, weight, bias, a.layer, domain);
  const at::Tensor input = steps.prepare(x, x);
  const NormTrace trace(a.layer, "forward", steps, domain.size(), !input.is_same(x), /*writes=*/true);
  const std::vector<at::Tensor> moments =
      comm::all_gather(domain, steps.moments(input, a.num_groups), a.layer, a.forward);
  return steps.normalise(input, weight, bias, moments, a.elements, a.eps);
}

Three backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
               const Optional& weight, const GroupNormCall& a, std::array<bool, 3> wanted) {
  const comm::Domain domain = comm::Domain::from_group_name(a.group);
  const GroupNormSteps& steps = group_norm_steps(x, weight, std::nullopt, a.layer, domain);
  const at::Tensor input = steps.prepare(x, x);
  const at::Tensor g = steps.prepare(grad, x);
  const NormTrace trace(a.layer, "backward", steps, domain.size(), !input.is_same(x) || !g.is_same(grad), wanted[0]);
  const at::Tensor channel_sums = steps.channel_sums(g, input, mean);
  Three result;
  if (wanted[1] || wanted[2]) {
    // The bias has the weight's dtype: group_norm checks it.
    const at::ScalarType type = weight.has_value() ? weight->scalar_type() : x.scalar_type();
    std::tie(std::get<1>(result), std::get<2>(result)) =
        steps.parameter_gradients(channel_sums, rstd, type, {wanted[1], wanted[2]});
  }
  // Another rank's x may need a gradient, and with it these sums.
  const std::vector<at::Tensor> group_sums =
      comm::all_gather(domain, steps.group_sums(channel_sums, weight, a.num_groups), a.layer, a.backward);
  if (!wanted[0]) return result;
  std::get<0>(result) = steps.input_gradient(g, input, mean, rstd, weight, group_sums, a.total);
  return result;
}

#define GRATICULE_NORM_ARGUMENTS                                                                   \
  int64_t num_groups, double eps, at::IntArrayRef in_offsets, int64_t dim, c10::string_view group, \
      c10::string_view layer
#define GRATICULE_NORM_VIEW \
  GroupNormView { num_groups, eps, in_offsets, dim, group, layer }

using ForwardSchema = Three(const at::Tensor&, const Optional&, const Optional&, int64_t, double, at::IntArrayRef,
                            int64_t, c10::string_view, c10::string_view);
using BackwardSchema = Three(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                             const Optional&, int64_t, double, at::IntArrayRef, int64_t, c10::string_view,
                             c10::string_view, std::array<bool, 3>);

Three call_forward(const at::Tensor& x, const Optional& weight, const Optional& bias, const GroupNormView& a) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("graticule::group_norm_forward", "").typed<ForwardSchema>();
  return op.call(x, weight, bias, a.num_groups, a.eps, a.in_offsets, a.dim, a.group, a.layer);
}

Three call_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                    const Optional& weight, const GroupNormView& a, std::array<bool, 3> wanted) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("graticule::group_norm_backward", "").typed<BackwardSchema>();
  return op.call(grad, x, mean, rstd, weight, a.num_groups, a.eps, a.in_offsets, a.dim, a.group, a.layer, wanted);
}

Three forward_kernel(const at::Tensor& x, const Optional& weight, const Optional& bias, GRATICULE_NORM_ARGUMENTS) {
  return forward(x, weight, bias, *find_group_norm_call(x, GRATICULE_NORM_VIEW));
}

Three backward_kernel(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                      const Optional& weight, GRATICULE_NORM_ARGUMENTS, std::array<bool, 3> wanted) {
  return backward(grad, x, mean, rstd, weight, *find_group_norm_call(x, GRATICULE_NORM_VIEW), wanted);
}

Three forward_meta(const at::Tensor& x, const Optional&, const Optional&, int64_t num_groups, double, at::IntArrayRef,
                   int64_t, c10::string_view, c10::string_view) {
  const at::Tensor statistics = at::empty({x.size(0), num_groups}, x.options().dtype(at::kDouble));
  return {halo::empty_with(x, x.sizes()), statistics, at::empty_like(statistics)};
}

Three backward_meta(const at::Tensor&, const at::Tensor& x, const at::Tensor&, const at::Tensor&,
                    const Optional& weight, int64_t, double, at::IntArrayRef, int64_t, c10::string_view,
                    c10::string_view, std::array<bool, 3> wanted) {
  const auto parameter = [&] {
    const auto type = weight.has_value() ? weight->scalar_type() : x.scalar_type();
    return at::empty({x.size(1)}, x.options().dtype(type));
  };
  return {wanted[0] ? halo::empty_with(x, x.sizes()) : at::Tensor(), wanted[1] ? parameter() : at::Tensor(),
          wanted[2] ? parameter() : at::Tensor()};
}

struct GroupNormFunction : torch::autograd::Function<GroupNormFunction> {
  static variable_list forward(AutogradContext* ctx, const Variable& x, const Optional& weight, const Optional& bias,
                               const Call& a) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [y, mean, rstd] = call_forward(x, weight, bias, a->view());
    ctx->save_for_backward({x, mean, rstd, weight.value_or(at::Tensor())});
    ctx->saved_data["arguments"] = c10::IValue::make_capsule(c10::make_intrusive<Saved>(a));
    ctx->saved_data["bias"] = bias.has_value() && bias->defined();
    ctx->mark_non_differentiable({mean, rstd});
    // Else autograd makes zeros for the gradients of these two in every backward.
    ctx->set_materialize_grads(false);
    return {y, mean, rstd};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto& a = *static_cast<const Saved&>(*ctx->saved_data["arguments"].toCapsule()).call;
    const variable_list saved = ctx->get_saved_variables();
    const bool affine = saved[3].defined();
    // Only tensors that were given are counted.
    const std::array<bool, 3> wanted{ctx->needs_input_grad(0), affine && ctx->needs_input_grad(1),
                                     ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(affine ? 2 : 1)};
    const Optional weight = affine ? Optional(saved[3]) : std::nullopt;
    // The other ranks' gradients want this one's sums, be they zeros.
    const at::Tensor grad = grads[0].defined() ? grads[0] : at::zeros_like(saved[0]);
    auto [grad_x, grad_weight, grad_bias] = call_backward(grad, saved[0], saved[1], saved[2], weight, a.view(), wanted);
    return {grad_x, grad_weight, grad_bias, Variable()};
  }
};

Three forward_autograd(const at::Tensor& x, const Optional& weight, const Optional& bias, GRATICULE_NORM_ARGUMENTS) {
  const variable_list results = GroupNormFunction::apply(x, weight, bias, find_group_norm_call(x, GRATICULE_NORM_VIEW));
  return {results[0], results[1], results[2]};
}

Three backward_autograd(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                        const Optional& weight, GRATICULE_NORM_ARGUMENTS, std::array<bool, 3> wanted) {
  const Call a = find_group_norm_call(x, GRATICULE_NORM_VIEW);
  refuse_double_backward(a->layer, {grad, x, weight.value_or(at::Tensor())});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(grad, x, mean, rstd, weight, a->view(), wanted);
}

at::Tensor call(const at::Tensor& x, const Optional& weight, const Optional& bias, const GroupNormView& view) {
  const comm::Domain domain = comm::Domain::from_group_name(std::string(view.group));
  const at::ScalarType type = check_group_norm(x, weight, bias, view, domain);
  if (type == x.scalar_type()) return std::get<0>(call_forward(x, weight, bias, view));
  const auto cast = [&](const Optional& t) { return t.has_value() && t->defined() ? Optional(t->to(type)) : t; };
  return std::get<0>(call_forward(x.to(type), cast(weight), cast(bias), view));
}

}  // namespace

at::Tensor group_norm(const at::Tensor& x, int64_t num_groups, const Optional& weight, const Optional& bias, double eps,
                      const Cut& cut) {
  return call(x, weight, bias, {num_groups, eps, cut.in_offsets, cut.dim, cut.group, cut.layer});
}

TORCH_LIBRARY_FRAGMENT(graticule, m) {
  m.def(
      "group_norm_forward(Tensor x, Tensor? weight, Tensor? bias, int num_groups, float eps, int[] in_offsets, int "
      "dim, "
      "str group, str layer) -> (Tensor, Tensor, Tensor)");
  m.def(
      "group_norm_backward(Tensor grad, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, int num_groups, float eps, "
      "int[] in_offsets, int dim, str group, str layer, bool[3] wanted) -> (Tensor, Tensor, Tensor)");
  m.def(
      "group_norm(Tensor x, int num_groups, Tensor? weight, Tensor? bias, float eps, int[] in_offsets, int dim, "
      "str group, str layer) -> Tensor",
      [](const at::Tensor& x, int64_t num_groups, const Optional& weight, const Optional& bias, double eps,
         at::IntArrayRef in_offsets, int64_t dim, c10::string_view group,
         c10::string_view layer) { return call(x, weight, bias, {num_groups, eps, in_offsets, dim, group, layer}); });
}
TORCH_LIBRARY_IMPL(graticule, CompositeExplicitAutograd, m) {
  m.impl("group_norm_forward", forward_kernel);
  m.impl("group_norm_backward", backward_kernel);
}
TORCH_LIBRARY_IMPL(graticule, Meta, m) {
  m.impl("group_norm_forward", forward_meta);
  m.impl("group_norm_backward", backward_meta);
}
TORCH_LIBRARY_IMPL(graticule, Autograd, m) {
  m.impl("group_norm_forward", forward_autograd);
  m.impl("group_norm_backward", backward_autograd);
}

}  // namespace graticule::ops

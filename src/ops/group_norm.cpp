#include "graticule/ops/group_norm.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "graticule/comm/collectives.hpp"
#include "graticule/comm/domain.hpp"
#include "graticule/halo/memory_format.hpp"
#include "ops/autograd_support.hpp"
#include "ops/cut_checks.hpp"
#include "ops/group_norm_steps.hpp"

namespace graticule::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;
using Three = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Optional = std::optional<at::Tensor>;

struct Arguments : torch::CustomClassHolder {
  int64_t num_groups;
  double eps;
  std::vector<int64_t> in_offsets;
  int64_t dim;
  std::string group, layer;

  Arguments(int64_t groups_, double eps_, std::vector<int64_t> offsets_, int64_t dim_, std::string group_,
            std::string layer_)
      : num_groups(groups_),
        eps(eps_),
        in_offsets(std::move(offsets_)),
        dim(dim_),
        group(std::move(group_)),
        layer(std::move(layer_)) {}
};
using ArgumentsPointer = c10::intrusive_ptr<Arguments>;

// Elements of one group of one sample on `rows` rows.
int64_t elements(const at::Tensor& x, const Arguments& a, int64_t rows) {
  int64_t count = x.size(1) / a.num_groups;
  for (int64_t d = 2; d < x.dim(); ++d) count *= d == a.dim ? rows : x.size(d);
  return count;
}

// The same on each rank.
std::vector<double> elements_of_ranks(const at::Tensor& x, const Arguments& a) {
  std::vector<double> counts;
  for (size_t rank = 0; rank + 1 < a.in_offsets.size(); ++rank) {
    counts.push_back(static_cast<double>(elements(x, a, a.in_offsets[rank + 1] - a.in_offsets[rank])));
  }
  return counts;
}

// What the ranks must agree on beside the shape of their statistics.
comm::Facts call_facts(const at::Tensor& x, const Arguments& a, const char* direction) {
  comm::Facts facts;
  facts.add(direction).add(static_cast<int64_t>(x.scalar_type())).add(a.num_groups).add(a.eps).add(a.dim);
  facts.add(a.in_offsets);
  for (int64_t d = 0; d < x.dim(); ++d) facts.add(d == a.dim ? 0 : x.size(d));
  return facts;
}

Three forward(const at::Tensor& x, const Optional& weight, const Optional& bias, const Arguments& a) {
  const comm::Domain domain = comm::Domain::from_group_name(a.group);
  check_own_rows(x, a.dim, a.in_offsets, a.layer, domain);
  const GroupNormSteps& steps = group_norm_steps(x, weight, bias);
  const at::Tensor input = steps.prepare(x, x);
  const std::vector<at::Tensor> moments =
      comm::all_gather(domain, steps.moments(input, a.num_groups), a.layer, call_facts(x, a, "forward"));
  return steps.normalise(input, weight, bias, moments, elements_of_ranks(x, a), a.eps);
}

Three backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
               const Optional& weight, const Arguments& a, std::array<bool, 3> wanted) {
  const comm::Domain domain = comm::Domain::from_group_name(a.group);
  const GroupNormSteps& steps = group_norm_steps(x, weight, std::nullopt);
  const at::Tensor input = steps.prepare(x, x);
  const at::Tensor g = steps.prepare(grad, x);
  const at::Tensor channel_sums = steps.channel_sums(g, input, mean);
  Three result;
  if (wanted[1] || wanted[2]) {
    // The bias has the weight's dtype: group_norm checks it.
    const at::ScalarType type = weight.has_value() ? weight->scalar_type() : x.scalar_type();
    std::tie(std::get<1>(result), std::get<2>(result)) =
        steps.parameter_gradients(channel_sums, rstd, type, {wanted[1], wanted[2]});
  }
  // Another rank's x may need a gradient, and with it these sums.
  const std::vector<at::Tensor> group_sums = comm::all_gather(
      domain, steps.group_sums(channel_sums, weight, a.num_groups), a.layer, call_facts(x, a, "backward"));
  if (!wanted[0]) return result;
  const auto total = static_cast<double>(elements(x, a, a.in_offsets.back()));
  std::get<0>(result) = steps.input_gradient(g, input, mean, rstd, weight, group_sums, total);
  return result;
}

#define GRATICULE_NORM_ARGUMENTS                                                                   \
  int64_t num_groups, double eps, at::IntArrayRef in_offsets, int64_t dim, c10::string_view group, \
      c10::string_view layer
#define GRATICULE_COLLECT_NORM Arguments(num_groups, eps, in_offsets.vec(), dim, std::string(group), std::string(layer))

using ForwardSchema = Three(const at::Tensor&, const Optional&, const Optional&, int64_t, double, at::IntArrayRef,
                            int64_t, c10::string_view, c10::string_view);
using BackwardSchema = Three(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                             const Optional&, int64_t, double, at::IntArrayRef, int64_t, c10::string_view,
                             c10::string_view, std::array<bool, 3>);

Three call_forward(const at::Tensor& x, const Optional& weight, const Optional& bias, const Arguments& a) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("graticule::group_norm_forward", "").typed<ForwardSchema>();
  return op.call(x, weight, bias, a.num_groups, a.eps, a.in_offsets, a.dim, a.group, a.layer);
}

Three call_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                    const Optional& weight, const Arguments& a, std::array<bool, 3> wanted) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("graticule::group_norm_backward", "").typed<BackwardSchema>();
  return op.call(grad, x, mean, rstd, weight, a.num_groups, a.eps, a.in_offsets, a.dim, a.group, a.layer, wanted);
}

Three forward_kernel(const at::Tensor& x, const Optional& weight, const Optional& bias, GRATICULE_NORM_ARGUMENTS) {
  return forward(x, weight, bias, GRATICULE_COLLECT_NORM);
}

Three backward_kernel(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                      const Optional& weight, GRATICULE_NORM_ARGUMENTS, std::array<bool, 3> wanted) {
  return backward(grad, x, mean, rstd, weight, GRATICULE_COLLECT_NORM, wanted);
}

Three forward_meta(const at::Tensor& x, const Optional&, const Optional&, int64_t num_groups, double, at::IntArrayRef,
                   int64_t, c10::string_view, c10::string_view) {
  const at::Tensor statistics = at::empty({x.size(0), num_groups}, x.options().dtype(at::kDouble));
  return {at::empty(x.sizes(), x.options().memory_format(halo::memory_format(x))), statistics,
          at::empty_like(statistics)};
}

Three backward_meta(const at::Tensor&, const at::Tensor& x, const at::Tensor&, const at::Tensor&,
                    const Optional& weight, int64_t, double, at::IntArrayRef, int64_t, c10::string_view,
                    c10::string_view, std::array<bool, 3> wanted) {
  const auto parameter = [&] {
    const auto type = weight.has_value() ? weight->scalar_type() : x.scalar_type();
    return at::empty({x.size(1)}, x.options().dtype(type));
  };
  return {wanted[0] ? at::empty(x.sizes(), x.options().memory_format(halo::memory_format(x))) : at::Tensor(),
          wanted[1] ? parameter() : at::Tensor(), wanted[2] ? parameter() : at::Tensor()};
}

struct GroupNormFunction : torch::autograd::Function<GroupNormFunction> {
  static variable_list forward(AutogradContext* ctx, const Variable& x, const Optional& weight, const Optional& bias,
                               const ArgumentsPointer& a) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [y, mean, rstd] = call_forward(x, weight, bias, *a);
    ctx->save_for_backward({x, mean, rstd, weight.value_or(at::Tensor())});
    ctx->saved_data["arguments"] = c10::IValue::make_capsule(a);
    ctx->saved_data["bias"] = bias.has_value() && bias->defined();
    ctx->mark_non_differentiable({mean, rstd});
    // Else autograd makes zeros for the gradients of these two in every backward.
    ctx->set_materialize_grads(false);
    return {y, mean, rstd};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto& a = static_cast<const Arguments&>(*ctx->saved_data["arguments"].toCapsule());
    const variable_list saved = ctx->get_saved_variables();
    const bool affine = saved[3].defined();
    // Only tensors that were given are counted.
    const std::array<bool, 3> wanted{ctx->needs_input_grad(0), affine && ctx->needs_input_grad(1),
                                     ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(affine ? 2 : 1)};
    const Optional weight = affine ? Optional(saved[3]) : std::nullopt;
    auto [grad_x, grad_weight, grad_bias] = call_backward(grads[0], saved[0], saved[1], saved[2], weight, a, wanted);
    return {grad_x, grad_weight, grad_bias, Variable()};
  }
};

Three forward_autograd(const at::Tensor& x, const Optional& weight, const Optional& bias, GRATICULE_NORM_ARGUMENTS) {
  const variable_list results =
      GroupNormFunction::apply(x, weight, bias, c10::make_intrusive<Arguments>(GRATICULE_COLLECT_NORM));
  return {results[0], results[1], results[2]};
}

Three backward_autograd(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                        const Optional& weight, GRATICULE_NORM_ARGUMENTS, std::array<bool, 3> wanted) {
  const Arguments a = GRATICULE_COLLECT_NORM;
  refuse_double_backward(a.layer, {grad, x, weight.value_or(at::Tensor())});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(grad, x, mean, rstd, weight, a, wanted);
}

// The dtype in which autocast would run at::group_norm: asked of ATen, on one element.
at::ScalarType autocast_type(const at::Tensor& x) {
  const at::NoGradGuard no_grad;
  return at::group_norm(at::zeros({1, 1, 2}, x.options()), 1).scalar_type();
}

void check_parameter(const Optional& parameter, const at::Tensor& x, const char* name, const Cut& cut,
                     const comm::Domain& domain) {
  if (!parameter.has_value() || !parameter->defined()) return;
  TORCH_CHECK_VALUE(parameter->dim() == 1 && parameter->size(0) == x.size(1), cut.layer, ": expected a ", name, " of ",
                    x.size(1), " values, got ", parameter->sizes(), rank_text(domain));
  const bool mixed = at::isReducedFloatingType(x.scalar_type()) && parameter->scalar_type() == at::kFloat;
  TORCH_CHECK_TYPE(mixed || parameter->scalar_type() == x.scalar_type(), cut.layer, ": expected a ", name,
                   " of the input's dtype ", x.scalar_type(), ", got ", parameter->scalar_type(), rank_text(domain));
}

}  // namespace

at::Tensor group_norm(const at::Tensor& x, int64_t num_groups, const Optional& weight, const Optional& bias, double eps,
                      const Cut& cut) {
  const comm::Domain domain = comm::Domain::from_group_name(cut.group);
  check_cut(x, cut, domain);
  TORCH_CHECK_VALUE(num_groups >= 1 && x.size(1) % num_groups == 0, cut.layer, ": ", num_groups,
                    " groups do not divide ", x.size(1), " channels", rank_text(domain));
  const Arguments a(num_groups, eps, cut.in_offsets, cut.dim, cut.group, cut.layer);
  TORCH_CHECK_VALUE(x.size(0) * elements(x, a, cut.in_offsets.back()) != 1, cut.layer,
                    ": expected more than one value to normalise, got one", rank_text(domain));
  at::Tensor input = x;
  Optional w = weight;
  Optional b = bias;
  if (under_autocast(x)) {
    const at::ScalarType type = autocast_type(x);
    if (type != x.scalar_type()) {
      input = x.to(type);
      if (w.has_value() && w->defined()) w = w->to(type);
      if (b.has_value() && b->defined()) b = b->to(type);
    }
  }
  check_parameter(w, input, "weight", cut, domain);
  check_parameter(b, input, "bias", cut, domain);
  return std::get<0>(call_forward(input, w, b, a));
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
         at::IntArrayRef in_offsets, int64_t dim, c10::string_view group, c10::string_view layer) {
        return group_norm(x, num_groups, weight, bias, eps,
                          {in_offsets.vec(), {}, dim, std::string(group), std::string(layer)});
      });
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

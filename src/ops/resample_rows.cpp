// graticule::resample_rows and graticule::resample_rows_adjoint: interpolation along the cut dimension as a weighted
// sum of rows, each op the other's derivative.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <utility>

#include "graticule/comm/domain.hpp"
#include "graticule/halo/exchange.hpp"
#include "graticule/halo/memory_format.hpp"
#include "graticule/halo/plans.hpp"
#include "ops/autograd_support.hpp"
#include "ops/resampling_plan.hpp"

namespace graticule::ops {
namespace {

using rows::Interval;
using rows::Partition;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct Arguments {
  std::string mode;
  bool align_corners;
  std::optional<double> scale;
  bool channels_last;
  std::vector<int64_t> in_offsets, out_offsets;
  int64_t dim;
  std::string group, layer;

  [[nodiscard]] std::shared_ptr<const ResamplingPlan> plan(const at::Tensor& t) const {
    const ResamplingKey key{mode, align_corners, scale, channels_last, t.dim(), dim, t.scalar_type() == at::kDouble};
    return find_resampling_plan(key, Partition(in_offsets), Partition(out_offsets), t.device());
  }
};

at::Tensor gather(const at::Tensor& t, const std::vector<int64_t>& offsets, const std::vector<Interval>& wanted,
                  const Arguments& a, const comm::Domain& domain, const char* direction) {
  auto plan = halo::find_plan(Partition(offsets), wanted, rows::Boundary::none, domain.rank());
  comm::Facts facts;
  facts.add(direction).add(a.mode).add(static_cast<int64_t>(a.align_corners)).add(a.scale.value_or(0.0));
  facts.add(a.in_offsets).add(a.out_offsets);
  return halo::Gather(t, std::move(plan), {a.dim, -1, false}, domain, a.layer, facts).finish();
}

at::Tensor empty_rows(const at::Tensor& like, int64_t dim, int64_t count) {
  std::vector<int64_t> sizes = like.sizes().vec();
  sizes[dim] = count;
  return at::empty(sizes, like.options().memory_format(halo::memory_format(like))).zero_();
}

// The pairs of an output row and an input row that tap number `tap` of the output rows `outputs` makes, as far as the
// input row lies in `inputs`; both counted from the begin of their interval.
struct Pairs {
  std::vector<int64_t> outputs, inputs;
  std::vector<double> weights;
};

Pairs pairs_of(const std::vector<rows::Taps<double>>& all_taps, size_t tap, Interval outputs, Interval inputs) {
  Pairs pairs;
  for (int64_t row = outputs.begin; row < outputs.end; ++row) {
    const auto& taps = all_taps[row];
    if (tap >= taps.rows.size() || !inputs.contains(taps.rows[tap])) continue;
    pairs.outputs.push_back(row - outputs.begin);
    pairs.inputs.push_back(taps.rows[tap] - inputs.begin);
    pairs.weights.push_back(taps.weights[tap]);
  }
  return pairs;
}

size_t most_taps(const std::vector<rows::Taps<double>>& all_taps, Interval outputs) {
  size_t most = 0;
  for (int64_t row = outputs.begin; row < outputs.end; ++row) most = std::max(most, all_taps[row].rows.size());
  return most;
}

// result[to[i]] += weights[i] * source[from[i]] along dim.
void add_weighted(at::Tensor& result, const at::Tensor& source, int64_t dim, const std::vector<int64_t>& to,
                  const std::vector<int64_t>& from, const std::vector<double>& weights) {
  if (to.empty()) return;
  const auto index = [&](const std::vector<int64_t>& values) {
    return at::tensor(values, at::TensorOptions().dtype(at::kLong)).to(source.device());
  };
  std::vector<int64_t> shape(source.dim(), 1);
  shape[dim] = static_cast<int64_t>(weights.size());
  const at::Tensor factors =
      at::tensor(weights, at::TensorOptions().dtype(at::kDouble)).to(source.options()).reshape(shape);
  result.index_add_(dim, index(to), source.index_select(dim, index(from)).mul_(factors));
}

at::Tensor resample(const at::Tensor& x, const Arguments& a) {
  const comm::Domain domain = comm::Domain::from_group_name(a.group);
  const auto plan = a.plan(x);
  const at::Tensor window = gather(x, a.in_offsets, plan->inputs, a, domain, "forward");
  const Interval own = Partition(a.out_offsets).interval(domain.rank());
  const Interval inputs = plan->inputs[domain.rank()];
  at::Tensor y = empty_rows(x, a.dim, own.size());
  for (size_t tap = 0; tap < most_taps(plan->taps, own); ++tap) {
    const Pairs pairs = pairs_of(plan->taps, tap, own, inputs);
    add_weighted(y, window, a.dim, pairs.outputs, pairs.inputs, pairs.weights);
  }
  return y;
}

at::Tensor resample_adjoint(const at::Tensor& g, const Arguments& a) {
  const comm::Domain domain = comm::Domain::from_group_name(a.group);
  const auto plan = a.plan(g);
  const at::Tensor window = gather(g, a.out_offsets, plan->outputs, a, domain, "backward");
  const Interval own = Partition(a.in_offsets).interval(domain.rank());
  const Interval outputs = plan->outputs[domain.rank()];
  at::Tensor result = empty_rows(g, a.dim, own.size());
  for (size_t tap = 0; tap < most_taps(plan->adjoint_taps, outputs); ++tap) {
    const Pairs pairs = pairs_of(plan->adjoint_taps, tap, outputs, own);
    add_weighted(result, window, a.dim, pairs.inputs, pairs.outputs, pairs.weights);
  }
  return result;
}

#define GRATICULE_RESAMPLE_ARGUMENTS                                                                \
  c10::string_view mode, bool align_corners, std::optional<double> scale, bool channels_last,       \
      at::IntArrayRef in_offsets, at::IntArrayRef out_offsets, int64_t dim, c10::string_view group, \
      c10::string_view layer
#define GRATICULE_COLLECT_RESAMPLE                                                                    \
  Arguments {                                                                                         \
    std::string(mode), align_corners, scale, channels_last, in_offsets.vec(), out_offsets.vec(), dim, \
        std::string(group), std::string(layer)                                                        \
  }

using Schema = at::Tensor(const at::Tensor&, c10::string_view, bool, std::optional<double>, bool, at::IntArrayRef,
                          at::IntArrayRef, int64_t, c10::string_view, c10::string_view);

at::Tensor call(const at::Tensor& t, const Arguments& a, bool adjoint) {
  static const auto forward =
      c10::Dispatcher::singleton().findSchemaOrThrow("graticule::resample_rows", "").typed<Schema>();
  static const auto backward =
      c10::Dispatcher::singleton().findSchemaOrThrow("graticule::resample_rows_adjoint", "").typed<Schema>();
  return (adjoint ? backward : forward)
      .call(t, a.mode, a.align_corners, a.scale, a.channels_last, a.in_offsets, a.out_offsets, a.dim, a.group, a.layer);
}

at::Tensor resample_kernel(const at::Tensor& x, GRATICULE_RESAMPLE_ARGUMENTS) {
  return resample(x, GRATICULE_COLLECT_RESAMPLE);
}
at::Tensor adjoint_kernel(const at::Tensor& g, GRATICULE_RESAMPLE_ARGUMENTS) {
  return resample_adjoint(g, GRATICULE_COLLECT_RESAMPLE);
}

at::Tensor meta(const at::Tensor& t, const std::vector<int64_t>& offsets, const Arguments& a) {
  const int rank = comm::Domain::from_group_name(a.group).rank();
  return empty_rows(t, a.dim, Partition(offsets).interval(rank).size());
}
at::Tensor resample_meta(const at::Tensor& x, GRATICULE_RESAMPLE_ARGUMENTS) {
  return meta(x, out_offsets.vec(), GRATICULE_COLLECT_RESAMPLE);
}
at::Tensor adjoint_meta(const at::Tensor& g, GRATICULE_RESAMPLE_ARGUMENTS) {
  return meta(g, in_offsets.vec(), GRATICULE_COLLECT_RESAMPLE);
}

struct ResampleFunction : torch::autograd::Function<ResampleFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& t, const Arguments& a, bool adjoint) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    save_a_mark(ctx, t);
    auto& data = ctx->saved_data;
    data["mode"] = a.mode;
    data["align_corners"] = a.align_corners;
    data["scale"] = a.scale;
    data["channels_last"] = a.channels_last;
    data["in_offsets"] = a.in_offsets;
    data["out_offsets"] = a.out_offsets;
    data["dim"] = a.dim;
    data["group"] = a.group;
    data["layer"] = a.layer;
    data["adjoint"] = adjoint;
    return call(t, a, adjoint);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto& data = ctx->saved_data;
    const Arguments a{data["mode"].toStringRef(),
                      data["align_corners"].toBool(),
                      data["scale"].toOptional<double>(),
                      data["channels_last"].toBool(),
                      data["in_offsets"].toIntVector(),
                      data["out_offsets"].toIntVector(),
                      data["dim"].toInt(),
                      data["group"].toStringRef(),
                      data["layer"].toStringRef()};
    return {call(grads[0], a, !data["adjoint"].toBool()), Variable(), Variable()};
  }
};

at::Tensor resample_autograd(const at::Tensor& x, GRATICULE_RESAMPLE_ARGUMENTS) {
  return ResampleFunction::apply(x, GRATICULE_COLLECT_RESAMPLE, false);
}
at::Tensor adjoint_autograd(const at::Tensor& g, GRATICULE_RESAMPLE_ARGUMENTS) {
  return ResampleFunction::apply(g, GRATICULE_COLLECT_RESAMPLE, true);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(graticule, m) {
  m.def(
      "resample_rows(Tensor x, str mode, bool align_corners, float? scale, bool channels_last, int[] in_offsets, "
      "int[] out_offsets, int dim, str group, str layer) -> Tensor");
  m.def(
      "resample_rows_adjoint(Tensor g, str mode, bool align_corners, float? scale, bool channels_last, "
      "int[] in_offsets, int[] out_offsets, int dim, str group, str layer) -> Tensor");
}
TORCH_LIBRARY_IMPL(graticule, CompositeExplicitAutograd, m) {
  m.impl("resample_rows", resample_kernel);
  m.impl("resample_rows_adjoint", adjoint_kernel);
}
TORCH_LIBRARY_IMPL(graticule, Meta, m) {
  m.impl("resample_rows", resample_meta);
  m.impl("resample_rows_adjoint", adjoint_meta);
}
TORCH_LIBRARY_IMPL(graticule, Autograd, m) {
  m.impl("resample_rows", resample_autograd);
  m.impl("resample_rows_adjoint", adjoint_autograd);
}

}  // namespace graticule::ops

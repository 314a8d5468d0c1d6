#include <ATen/ATen.h>

#include "graticule/halo/exchange.hpp"
#include "graticule/halo/memory_format.hpp"
#include "graticule/halo/plans.hpp"
#include "ops/call_trace.hpp"
#include "ops/resample.hpp"

namespace graticule::ops {
namespace {

// What tap number `tap` of the result rows adds: the rows that have it, their sources within the window, the weights.
struct Selection {
  std::vector<int64_t> results, sources;
  std::vector<double> weights;
};

Selection select(const Resampling& r, int64_t tap) {
  Selection selection;
  for (int64_t row = 0; row < r.rows.size(); ++row) {
    if (tap >= r.rows.taps(row)) continue;
    const int64_t entry = r.rows.starts[row] + tap;
    selection.results.push_back(row);
    selection.sources.push_back(r.rows.sources[entry] - r.needed().begin);
    selection.weights.push_back(r.rows.weights.wide[entry]);
  }
  return selection;
}

void add(at::Tensor& result, const at::Tensor& window, int64_t dim, const Selection& selection) {
  const auto index = [&](const std::vector<int64_t>& values) {
    return at::tensor(values, at::TensorOptions().dtype(at::kLong)).to(window.device());
  };
  std::vector<int64_t> shape(window.dim(), 1);
  shape[dim] = static_cast<int64_t>(selection.weights.size());
  const at::Tensor weights =
      at::tensor(selection.weights, at::TensorOptions().dtype(at::kDouble)).to(window.options()).reshape(shape);
  result.index_add_(dim, index(selection.results), window.index_select(dim, index(selection.sources)).mul_(weights));
}

}  // namespace

at::Tensor resample_by_selection(const at::Tensor& t, const Resampling& r, const ResampleCall& call) {
  const CallTrace trace(call.layer, call.direction, "rows selected from a copy with its halo");
  auto plan = halo::find_plan(r.outside->partition, r.needs, rows::Boundary::none, r.outside->rank);
  const at::Tensor window = halo::Gather(t, std::move(plan), {call.dim}, call.domain, call.layer, r.facts).finish();
  at::Tensor result = halo::empty_with(t, resampled_sizes(t.sizes(), r, call.dim)).zero_();
  for (int64_t tap = 0; tap < r.rows.most_taps(); ++tap) add(result, window, call.dim, select(r, tap));
  return result;
}

}  // namespace graticule::ops

#include "ops/resampling_plan.hpp"

#include <ATen/ATen.h>
#include <ATen/native/UpSample.h>

#include <map>
#include <mutex>
#include <tuple>
#include <utility>

namespace graticule::ops {
namespace {

using rows::Interval;
using rows::Partition;
using rows::Taps;

// ATen's nearest kernels round their coordinates in several ways, so each is asked which row it takes: it is given the
// row numbers to interpolate.
std::vector<Taps<double>> nearest_taps(const ResamplingKey& key, int64_t input, int64_t output, at::Device device) {
  const auto options = at::TensorOptions().device(device).dtype(key.wide ? at::kDouble : at::kFloat);
  TORCH_CHECK(key.wide || input < (int64_t{1} << 24), "interpolation of ", input, " rows by mode ", key.mode,
              " needs float64");
  // Four channels, since a channels_last kernel wants several.
  std::vector<int64_t> sizes(key.tensor_dims, 1);
  sizes[1] = 4;
  sizes[key.dim] = input;
  std::vector<int64_t> shape(key.tensor_dims, 1);
  shape[key.dim] = input;
  const auto format = !key.channels_last     ? at::MemoryFormat::Contiguous
                      : key.tensor_dims == 4 ? at::MemoryFormat::ChannelsLast
                                             : at::MemoryFormat::ChannelsLast3d;
  const at::Tensor numbers = at::arange(input, options).reshape(shape).expand(sizes).contiguous(format);
  std::vector<int64_t> size(key.tensor_dims - 2, 1);
  size[key.dim - 2] = output;
  std::vector<std::optional<double>> scale(key.tensor_dims - 2);
  scale[key.dim - 2] = key.scale;
  const bool exact = key.mode == "nearest-exact";
  at::Tensor taken;
  if (key.tensor_dims == 3) {
    taken = exact ? at::_upsample_nearest_exact1d(numbers, size, scale[0])
                  : at::upsample_nearest1d(numbers, size, scale[0]);
  } else if (key.tensor_dims == 4) {
    taken = exact ? at::_upsample_nearest_exact2d(numbers, size, scale[0], scale[1])
                  : at::upsample_nearest2d(numbers, size, scale[0], scale[1]);
  } else {
    taken = exact ? at::_upsample_nearest_exact3d(numbers, size, scale[0], scale[1], scale[2])
                  : at::upsample_nearest3d(numbers, size, scale[0], scale[1], scale[2]);
  }
  const at::Tensor rows = taken.select(0, 0).select(0, 0).reshape({output}).to(at::kCPU, at::kLong).contiguous();
  std::vector<Taps<double>> result;
  for (int64_t row = 0; row < output; ++row) result.push_back({{rows.const_data_ptr<int64_t>()[row]}, {1.0}});
  return result;
}

// The rows that ATen's nearest backward adds to, by its own formula.
std::vector<Taps<double>> nearest_adjoint_taps(const ResamplingKey& key, int64_t input, int64_t output) {
  const auto source = key.mode == "nearest-exact" ? at::native::nearest_exact_idx : at::native::nearest_idx;
  std::vector<Taps<double>> result;
  for (int64_t row = 0; row < output; ++row) result.push_back({{source(row, input, output, key.scale)}, {1.0}});
  return result;
}

rows::Resampling kind_of(const std::string& mode) {
  if (mode == "linear") return rows::Resampling::linear;
  if (mode == "cubic") return rows::Resampling::cubic;
  if (mode == "linear-antialias") return rows::Resampling::linear_antialias;
  if (mode == "cubic-antialias") return rows::Resampling::cubic_antialias;
  TORCH_CHECK_VALUE(mode == "area", "unknown interpolation ", mode);
  return rows::Resampling::area;
}

template <typename Real>
Taps<double> taps_in(rows::Resampling kind, const rows::ResamplingGrid& grid, int64_t row) {
  const Taps<Real> taps = rows::resampling_taps<Real>(kind, grid, row);
  return {taps.rows, std::vector<double>(taps.weights.begin(), taps.weights.end())};
}

std::vector<Taps<double>> weighted_taps(const ResamplingKey& key, int64_t input, int64_t output) {
  const rows::Resampling kind = kind_of(key.mode);
  const rows::ResamplingGrid grid{input, output, key.align_corners, key.scale};
  std::vector<Taps<double>> result;
  for (int64_t row = 0; row < output; ++row) {
    result.push_back(key.wide ? taps_in<double>(kind, grid, row) : taps_in<float>(kind, grid, row));
  }
  return result;
}

std::vector<Taps<double>> identity_taps(int64_t rows) {
  std::vector<Taps<double>> result;
  for (int64_t row = 0; row < rows; ++row) result.push_back({{row}, {1.0}});
  return result;
}

ResamplingPlan make_plan(const ResamplingKey& key, const Partition& input, const Partition& output, at::Device device) {
  const bool nearest = key.mode == "nearest" || key.mode == "nearest-exact";
  ResamplingPlan plan;
  plan.taps = nearest ? nearest_taps(key, input.rows(), output.rows(), device)
                      : weighted_taps(key, input.rows(), output.rows());
  const bool antialias = key.mode == "linear-antialias" || key.mode == "cubic-antialias";
  plan.adjoint_taps = nearest && device.is_cpu() ? nearest_adjoint_taps(key, input.rows(), output.rows()) : plan.taps;
  if (antialias && input.rows() == output.rows()) plan.taps = identity_taps(output.rows());
  for (int rank = 0; rank < input.ranks(); ++rank) {
    Interval inputs;
    Interval outputs;
    for (int64_t row = 0; row < output.rows(); ++row) {
      if (output.interval(rank).contains(row)) inputs = rows::hull(inputs, plan.taps[row].support());
      const Interval touched = rows::intersect(plan.adjoint_taps[row].support(), input.interval(rank));
      if (!touched.empty()) outputs = rows::hull(outputs, {row, row + 1});
    }
    plan.inputs.push_back(inputs);
    plan.outputs.push_back(outputs);
  }
  return plan;
}

}  // namespace

std::shared_ptr<const ResamplingPlan> find_resampling_plan(const ResamplingKey& key, const Partition& input,
                                                           const Partition& output, at::Device device) {
  using CacheKey = std::tuple<std::string, bool, std::optional<double>, bool, int64_t, int64_t, bool,
                              std::vector<int64_t>, std::vector<int64_t>, std::string>;
  static std::mutex mutex;
  static std::map<CacheKey, std::shared_ptr<const ResamplingPlan>> plans;
  CacheKey cache_key{key.mode, key.align_corners, key.scale,       key.channels_last, key.tensor_dims,
                     key.dim,  key.wide,          input.offsets(), output.offsets(),  device.str()};
  {
    const std::lock_guard lock(mutex);
    if (const auto found = plans.find(cache_key); found != plans.end()) return found->second;
  }
  auto plan = std::make_shared<const ResamplingPlan>(make_plan(key, input, output, device));
  const std::lock_guard lock(mutex);
  if (plans.size() >= 1024) plans.clear();
  return plans.try_emplace(std::move(cache_key), std::move(plan)).first->second;
}

}  // namespace graticule::ops

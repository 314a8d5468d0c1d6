// Interpolation as weighted sums of rows, and of columns where a plane is interpolated in one pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "graticule/comm/domain.hpp"
#include "ops/resampling_plan.hpp"

namespace graticule::ops {

/// Where a resampling happens.
struct ResampleCall {
  int64_t dim = 2;  ///< the cut dimension; columns are dimension 3 of 4, then
  const comm::Domain& domain;
  const std::string& layer;
  const char* direction = "forward";  ///< for traces
};

/// Whether resample_on_cpu takes t.
inline bool has_cpu_loops(const at::Tensor& t) {
  return t.device().is_cpu() && (t.scalar_type() == at::kFloat || t.scalar_type() == at::kDouble);
}

/// This rank's rows of the result, in `format` (of the tensor and of the result). All ranks must call. One pass: rows
/// are read where they lie, those of other ranks from a halo; nothing the size of a shard is made but the result (and
/// of t, where it does not have that format, a copy that has).
at::Tensor resample_on_cpu(const at::Tensor& t, const Resampling& resampling, at::MemoryFormat format,
                           const ResampleCall& call);

/// The same along a dimension that is not cut, by a plan of one rank: no message.
at::Tensor resample_uncut_on_cpu(const at::Tensor& t, const Resampling& resampling, at::MemoryFormat format,
                                 int64_t dim);

/// The same by ATen's operations, on any device, in t's memory format; rows alone.
at::Tensor resample_by_selection(const at::Tensor& t, const Resampling& resampling, const ResampleCall& call);

/// t's sizes with the result's rows, and its columns where those change.
std::vector<int64_t> resampled_sizes(at::IntArrayRef sizes, const Resampling& resampling, int64_t dim);

}  // namespace graticule::ops

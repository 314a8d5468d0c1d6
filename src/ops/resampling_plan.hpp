// An interpolation of one cut tensor, worked out once a shape.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "graticule/comm/facts.hpp"
#include "graticule/rows/exchange_plan.hpp"
#include "graticule/rows/interval.hpp"
#include "ops/resample_table.hpp"

namespace graticule::ops {

/// The other dimension of a plane (N, C, rows, columns).
struct Across {
  int64_t input = 1;
  int64_t output = 1;
  std::optional<double> scale;
};

/// What names an interpolation along the cut dimension, and across it where `across` is given (four dimensions, the cut
/// one is number 2). `mode` is torch.nn.functional.interpolate's, without the number of dimensions: nearest,
/// nearest-exact, linear, cubic, linear-antialias, cubic-antialias or area. Or linear-with-zeros, which multiplies
/// every source by zero too, as ATen does where another dimension keeps its size; or cubic-copied-back, whose adjoint
/// copies; or nearest-copied, which copies a dimension that keeps its size, whatever the factor, where nearest does
/// not: ATen's kernels differ there.
struct ResamplingKey {
  std::string mode;
  bool align_corners = false;
  std::optional<double> scale;
  std::optional<Across> across;
  bool channels_last = false;  ///< ATen has a nearest kernel of its own for it
  int64_t tensor_dims = 4;
  int64_t dim = 2;
  bool wide = false;  ///< float64
};

/// How a plane is resampled: by a buffer of blended rows, by a buffer of rows whose columns are done, or every value
/// straight from all its sources (`at_once`; at most pixel_taps of them).
enum class ResampleOrder { rows_first, columns_first, at_once };

/// One rank's part in an interpolation or in its adjoint: which weighted sums of which source rows its rows are.
struct Resampling {
  ResampleTable rows;                 ///< this rank's result rows; sources are global rows
  LineTable row_line;                 ///< the same; sources are counted from needed().begin
  std::vector<rows::Interval> needs;  ///< source rows of each rank's result rows
  /// Brings the needed rows before this rank's own (part 0) and after them (part 1).
  std::shared_ptr<const rows::ExchangePlan> outside;
  rows::Interval early;  ///< result rows, counted from this rank's first, that need no row from outside
  comm::Facts facts;     ///< what the ranks must agree on

  bool has_columns = false;  ///< whether columns change, and the following are filled
  ResampleTable columns;
  LineTable column_line;
  /// The order that costs least, of single values and of many side by side. A matter of the whole grid: every cut
  /// rounds alike.
  ResampleOrder line_order = ResampleOrder::rows_first;
  ResampleOrder pixel_order = ResampleOrder::rows_first;

  [[nodiscard]] rows::Interval own() const { return outside->owned(); }
  [[nodiscard]] rows::Interval needed() const { return needs[outside->rank]; }
};

struct ResamplingPlan {
  Resampling forward;
  /// Not always the transposed forward: ATen's own forward and backward differ with a scale factor that leaves the
  /// size as it is (antialias: only its forward copies then; nearest: only its backward) or doubles it (nearest).
  Resampling adjoint;
};

/// Found in O(1) after the first call with these facts.
std::shared_ptr<const ResamplingPlan> find_resampling_plan(const ResamplingKey& key, at::IntArrayRef in_offsets,
                                                           at::IntArrayRef out_offsets, int rank, at::Device device);

}  // namespace graticule::ops

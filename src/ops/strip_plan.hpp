// Which rows a convolution computes from the shard as it lies, and which from strips of whole windows.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "graticule/comm/facts.hpp"
#include "graticule/ops/geometry.hpp"
#include "graticule/rows/exchange_plan.hpp"
#include "graticule/rows/seams.hpp"

namespace graticule::ops {

/// The rows of a result that strips of whole windows give, on one rank. Where `whole`, `before` alone gives all rows of
/// the rank; elsewhere a local operation on the shard gives all rows, and the strips overwrite those near the cuts.
struct Strips {
  rows::Interval before;
  rows::Interval after;
  bool whole = false;
  const char* reason = "";      ///< why, for traces
  rows::Interval before_needs;  ///< source rows of the strips' whole windows; may lie beyond the grid
  rows::Interval after_needs;
  std::shared_ptr<const rows::ExchangePlan> exchange;  ///< of the needs: two parts
};

/// One rank's part in a convolution of these sizes and options.
struct StripPlan {
  rows::LocalFit fit;       ///< of the local convolution
  Strips forward;           ///< of the output
  Strips backward;          ///< of the input's gradient, the rows beyond the grid included
  rows::Interval extended;  ///< this rank's input rows and those beyond the grid that it stands for
  /// Whose part of the weight's gradient a pair of an input row and a row of the output's gradient is: that of the rank
  /// of the output row, or else of the input row. The same on every rank, or pairs would count twice or not at all.
  bool weight_by_output_rows = false;
  /// Input rows outside this rank's own that its output is made of, where the weight's gradient goes by output rows:
  /// what backward needs of those that came in forward. Rows of zeros beyond the grid are left out.
  rows::Seams kept{};
  comm::Facts facts;  ///< what the ranks must agree on beside the rows that travel
};

/// Found in O(1) after the first call with these facts: x's and the weight's sizes, the options, the placement.
/// `out_sizes` are those of the output.
std::shared_ptr<const StripPlan> find_strip_plan(const at::Tensor& x, const at::Tensor& weight,
                                                 const ConvolutionOptions& options, const Placement& placement,
                                                 at::IntArrayRef out_sizes, int rank);

/// Input rows of the whole grid and those beyond its ends that the layer's windows reach.
rows::Interval extended_grid(const rows::Stencil& s, int64_t in_rows, int64_t out_rows, rows::Boundary boundary);

/// Whether every row beyond the grid is made of rows of the rank at that end: convolution takes no others.
bool border_is_local(const rows::Stencil& s, const rows::Partition& input, int64_t out_rows, rows::Boundary boundary);

}  // namespace graticule::ops

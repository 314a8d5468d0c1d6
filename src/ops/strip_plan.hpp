// Which rows a convolution computes from the shard as it lies, and which from strips of whole windows.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "graticule/comm/exchange.hpp"
#include "graticule/ops/geometry.hpp"
#include "graticule/rows/exchange_plan.hpp"
#include "graticule/rows/seams.hpp"
#include "ops/convolution_arguments.hpp"

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
  comm::MessageTag tag{};                              ///< of its messages
};

/// Pairs of rows of a kernel's two sides: every coarse row with those fine rows that its window has among them.
struct RowPairs {
  rows::Interval coarse;
  rows::Interval fine;
};

/// One rank's part in a convolution of these sizes and arguments: whatever does not depend on values.
struct StripPlan {
  rows::Stencil s;                 ///< along the cut
  std::vector<int64_t> x_sizes;    ///< of this rank's input
  std::vector<int64_t> out_sizes;  ///< of this rank's output
  ConvolutionOptions local;        ///< of the local convolution of the shard as it lies
  ConvolutionOptions windows;      ///< of that of whole windows
  Strips forward;                  ///< of the output
  Strips backward;                 ///< of the input's gradient, the rows beyond the grid included
  rows::Interval extended;         ///< this rank's input rows and those beyond the grid that it stands for
  /// Whose part of the weight's gradient a pair of an input row and a row of the output's gradient is: that of the rank
  /// of the output row, or else of the input row. The same on every rank, or pairs would count twice or not at all.
  bool weight_by_output_rows = false;
  /// Else: this rank's input rows and the rows of others of the output's gradient, before and after its own, that make
  /// up pairs.
  RowPairs outside_before, outside_after;
  /// Input rows outside this rank's own that its output is made of, where the weight's gradient goes by output rows:
  /// what backward needs of those that came in forward. Rows of zeros beyond the grid are left out.
  rows::Seams kept{};
  comm::MessageTag halo_tag{};  ///< of a call that asks for those alone
};

/// Found in O(1) after the first call with these arguments, sizes of x and the weight, and dtype.
std::shared_ptr<const StripPlan> find_strip_plan(const at::Tensor& x, const at::Tensor& weight,
                                                 const ConvolutionArguments& arguments, int rank);

/// Input rows of the whole grid and those beyond its ends that the layer's windows reach and a rank stands for: on a
/// circular grid none.
rows::Interval extended_grid(const rows::Stencil& s, int64_t in_rows, int64_t out_rows, rows::Boundary boundary);

/// Whether convolution takes this boundary: every row beyond the grid is made of rows of the rank at that end, or the
/// windows go round a circular grid.
bool takes_boundary(const rows::Stencil& s, const rows::Partition& input, int64_t out_rows, rows::Boundary boundary);

}  // namespace graticule::ops

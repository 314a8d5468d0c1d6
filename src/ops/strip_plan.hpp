// Which rows a convolution computes from the shard as it lies, and which from strips of whole windows.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "graticule/rows/partition.hpp"
#include "graticule/rows/seams.hpp"
#include "graticule/rows/stencil.hpp"

namespace graticule::ops {

/// The rows of a result that strips of whole windows give, one entry a rank. Where `whole`, `before` alone gives all
/// rows of the rank; elsewhere a local operation on the shard gives all rows, and the strips overwrite those near the
/// cuts.
struct Strips {
  std::vector<rows::Interval> before;
  std::vector<rows::Interval> after;
  std::vector<bool> whole;
  std::vector<rows::Interval> before_needs;  ///< source rows of the strips' whole windows; may lie beyond the grid
  std::vector<rows::Interval> after_needs;
};

/// What names a plan. Positions are the values of one row of one channel, 0 where bits need not be kept.
struct StripKey {
  rows::Stencil stencil;
  bool transposed = false;
  std::vector<int64_t> in_offsets;
  std::vector<int64_t> out_offsets;
  int64_t in_positions = 0;
  int64_t out_positions = 0;
  friend bool operator==(const StripKey&, const StripKey&) = default;
};

struct StripPlan {
  std::vector<rows::LocalFit> fits;  ///< of each rank's local convolution
  Strips forward;                    ///< of the output
  Strips backward;                   ///< of the input's gradient
};

/// Found in O(1) after the first call with these facts; the same on every rank.
std::shared_ptr<const StripPlan> find_strip_plan(const StripKey& key);

}  // namespace graticule::ops

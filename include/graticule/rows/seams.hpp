// Which rows of a layer's result its own shard gives, and which lie near a cut and need other ranks' rows.
#pragma once

#include <cstdint>

#include "graticule/rows/interval.hpp"
#include "graticule/rows/stencil.hpp"

namespace graticule::rows {

/// Padding with which a local convolution of the shard as it lies gives exactly the rank's own rows, right up to those
/// whose windows leave the shard.
struct LocalFit {
  bool fits = false;
  int64_t padding = 0;         ///< on both sides, as at::convolution takes it
  int64_t output_padding = 0;  ///< of a transposed convolution
};

/// For a convolution from the shard `fine` to its rows `coarse`. The local windows must reach the shard's last row:
/// kernels for left-over rows block differently, and PyTorch 2.13 has one that writes beyond its memory.
[[nodiscard]] constexpr LocalFit fit_convolution(const Stencil& s, Interval fine, Interval coarse) {
  const int64_t padding = fine.begin + s.padding - coarse.begin * s.stride;
  if (fine.empty() || coarse.empty() || padding < 0) return {};
  const int64_t gives = coarse_size({s.kernel, s.stride, padding, s.dilation}, fine.size(), padding);
  const int64_t last = (coarse.size() - 1) * s.stride - padding + s.span();
  return {gives == coarse.size() && last >= fine.size(), padding, 0};
}

/// For a transposed convolution from the shard `coarse` to its rows `fine`. The local output padding must be that of
/// the whole layer, `output_padding`: kernels for left-over rows block differently.
[[nodiscard]] constexpr LocalFit fit_transposed(const Stencil& s, Interval coarse, Interval fine,
                                                int64_t output_padding) {
  const int64_t padding = fine.begin - (coarse.begin * s.stride - s.padding);
  if (fine.empty() || coarse.empty() || padding < 0) return {};
  const int64_t gives = fine_size({s.kernel, s.stride, padding, s.dilation}, coarse.size(), output_padding);
  return {gives == fine.size(), padding, output_padding};
}

/// Rows near the two ends of a shard that depend on rows of other ranks. They overlap where every row does.
struct Seams {
  Interval before;
  Interval after;
  friend constexpr bool operator==(const Seams&, const Seams&) = default;
};

/// Of the coarse rows `target`, those whose windows leave the fine rows `source` of a grid of `rows` fine rows. At the
/// grid's own ends they count only where a `bordered` grid goes on beyond them.
[[nodiscard]] constexpr Seams coarse_seams(const Stencil& s, Interval target, Interval source, int64_t rows,
                                           bool bordered = false) {
  Seams seams{{target.begin, target.begin}, {target.end, target.end}};
  if (source.begin > 0 || bordered) {
    const int64_t inside = ceil_div(source.begin + s.padding, s.stride);
    seams.before.end = std::clamp(inside, target.begin, target.end);
  }
  if (source.end < rows || bordered) {
    const int64_t outside = floor_div(source.end + s.padding - s.span(), s.stride) + 1;
    seams.after.begin = std::clamp(outside, target.begin, target.end);
  }
  return seams;
}

/// Of the fine rows `target`, those that windows of other coarse rows than `source` touch, of `rows` coarse rows, or of
/// as many again and again where windows go `round` the grid.
[[nodiscard]] constexpr Seams fine_seams(const Stencil& s, Interval target, Interval source, int64_t rows,
                                         bool round = false) {
  Seams seams{{target.begin, target.begin}, {target.end, target.end}};
  if (source.begin > 0 || round) {
    const int64_t inside = (source.begin - 1) * s.stride - s.padding + s.span();
    seams.before.end = std::clamp(inside, target.begin, target.end);
  }
  if (source.end < rows || round) {
    const int64_t outside = source.end * s.stride - s.padding;
    seams.after.begin = std::clamp(outside, target.begin, target.end);
  }
  return seams;
}

}  // namespace graticule::rows

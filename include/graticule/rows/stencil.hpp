// Which input rows the output rows of a convolution depend on, and the other way round.
#pragma once

#include <cstdint>

#include "graticule/rows/interval.hpp"

namespace graticule::rows {

/// A convolution along the cut dimension: output row o reads input rows o * stride - padding + dilation * [0, kernel).
/// A transposed convolution with the same numbers is its adjoint: input row i writes to output rows
/// i * stride - padding + dilation * [0, kernel).
struct Stencil {
  int64_t kernel = 1;
  int64_t stride = 1;
  int64_t padding = 0;  ///< rows beyond row 0 that the first window reads
  int64_t dilation = 1;

  /// Rows from a window's first to its last, both included.
  [[nodiscard]] constexpr int64_t span() const { return dilation * (kernel - 1) + 1; }
  friend constexpr bool operator==(const Stencil&, const Stencil&) = default;
};

/// Fine rows (a convolution's input) that the whole windows of coarse rows `coarse` cover; may lie beyond the grid.
[[nodiscard]] constexpr Interval fine_rows(const Stencil& s, Interval coarse) {
  if (coarse.empty()) return {0, 0};
  return {coarse.begin * s.stride - s.padding, (coarse.end - 1) * s.stride - s.padding + s.span()};
}

/// Coarse rows whose windows touch fine rows `fine`, and as few more as are needed for their windows, from the first to
/// the last, to cover `fine` without a gap at either end; may lie beyond the grid.
/// For stride <= span this is [ceil((a + p - d (k - 1)) / s), floor((b - 1 + p) / s) + 1). With a stride longer than
/// the span some fine rows are touched by no window; then the neighbouring windows are included.
[[nodiscard]] constexpr Interval coarse_rows(const Stencil& s, Interval fine) {
  if (fine.empty()) return {0, 0};
  const int64_t reach = s.span() - 1;
  const int64_t first =
      std::min(ceil_div(fine.begin + s.padding - reach, s.stride), floor_div(fine.begin + s.padding, s.stride));
  const int64_t last =
      std::max(floor_div(fine.end - 1 + s.padding, s.stride), ceil_div(fine.end - 1 + s.padding - reach, s.stride));
  return {first, last + 1};
}

/// Of the window of coarse row `coarse`, which of its `kernel` rows lie in `fine`: none, or some without a gap.
[[nodiscard]] constexpr Interval taps_within(const Stencil& s, int64_t coarse, Interval fine) {
  const int64_t first = coarse * s.stride - s.padding;
  const Interval taps{std::max<int64_t>(ceil_div(fine.begin - first, s.dilation), 0),
                      std::min(floor_div(fine.end - 1 - first, s.dilation) + 1, s.kernel)};
  return fine.empty() || taps.empty() ? Interval{0, 0} : taps;
}

/// Rows that a convolution makes of `rows` rows; `padding_after` rows lie beyond the last one. 0 or less: none.
[[nodiscard]] constexpr int64_t coarse_size(const Stencil& s, int64_t rows, int64_t padding_after) {
  return floor_div(rows + s.padding + padding_after - s.span(), s.stride) + 1;
}

/// Rows that a transposed convolution makes of `rows` rows, as torch.nn.ConvTranspose2d defines it.
[[nodiscard]] constexpr int64_t fine_size(const Stencil& s, int64_t rows, int64_t output_padding) {
  return (rows - 1) * s.stride - 2 * s.padding + s.span() + output_padding;
}

/// Whether windows go round a circular grid: that of coarse row `coarse_rows` on reads the same rows as that of row 0.
[[nodiscard]] constexpr bool goes_round(const Stencil& s, int64_t fine_rows, int64_t coarse_rows) {
  return coarse_rows * s.stride == fine_rows;
}

/// Rows that a rank needs of its neighbours at a cut that lines up with the stride, from the wider side.
[[nodiscard]] constexpr int64_t halo_width(const Stencil& s) {
  return std::max<int64_t>({s.padding, s.span() - s.stride - s.padding, 0});
}

/// The same for a transposed convolution.
[[nodiscard]] constexpr int64_t transposed_halo_width(const Stencil& s) {
  return std::max<int64_t>({floor_div(s.span() - 1 - s.padding, s.stride), ceil_div(s.padding, s.stride), 0});
}

}  // namespace graticule::rows

// Half-open intervals of global rows.
#pragma once

#include <algorithm>
#include <cstdint>

namespace graticule::rows {

/// Rows [begin, end). Rows are global indices along the cut dimension and may lie beyond the grid.
/// An interval with end <= begin is empty.
struct Interval {
  int64_t begin = 0;
  int64_t end = 0;

  [[nodiscard]] constexpr int64_t size() const { return std::max<int64_t>(end - begin, 0); }
  [[nodiscard]] constexpr bool empty() const { return end <= begin; }
  [[nodiscard]] constexpr bool contains(int64_t row) const { return begin <= row && row < end; }
  friend constexpr bool operator==(const Interval&, const Interval&) = default;
};

/// The rows that both intervals hold.
[[nodiscard]] constexpr Interval intersect(Interval a, Interval b) {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

/// The smallest interval that holds both; an empty interval adds nothing.
[[nodiscard]] constexpr Interval hull(Interval a, Interval b) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  return {std::min(a.begin, b.begin), std::max(a.end, b.end)};
}

/// Floor and ceiling of a / b for b > 0 and any sign of a.
[[nodiscard]] constexpr int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }
[[nodiscard]] constexpr int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }

/// a modulo b in [0, b) for b > 0 and any sign of a.
[[nodiscard]] constexpr int64_t modulo(int64_t a, int64_t b) { return a - floor_div(a, b) * b; }

}  // namespace graticule::rows

// What stands beyond row 0 and row G.
#pragma once

#include <cstdint>
#include <string>

namespace graticule::rows {

enum class Boundary {
  none,         ///< nothing: a row beyond the grid is an error
  zeros,        ///< zeros
  reflect,      ///< row -1 is row 1, row G is row G - 2
  replicate,    ///< row -1 is row 0, row G is row G - 1
  circular,     ///< row -1 is row G - 1, row G is row 0
  pole_on_row,  ///< the first and last row lie on the poles: row -1 is row 1 seen from the other side of the pole
  pole_between  ///< the poles lie half a row beyond the grid: row -1 is row 0 seen from the other side of the pole
};

/// Where a row of the extended grid comes from.
struct Source {
  int64_t row = -1;          ///< a row of the grid, or -1: zeros
  bool across_pole = false;  ///< seen from the other side of a pole: half the longitudes away, vectors flipped

  friend constexpr bool operator==(const Source&, const Source&) = default;
};

/// Source of row `row` (any integer) of a grid of `rows` rows. Reflection repeats for rows far beyond the grid.
/// Throws std::invalid_argument where the boundary cannot say: a row beyond the grid for `none`, or for a grid
/// of no rows, or of one row for `reflect` and `pole_on_row`.
[[nodiscard]] Source source_row(Boundary boundary, int64_t row, int64_t rows);

/// The boundary named none, zeros, reflect, replicate, circular or pole; `row_on_pole` tells the two kinds of pole
/// apart and is ignored for the others. Throws std::invalid_argument for another name.
[[nodiscard]] Boundary boundary_from_name(const std::string& name, bool row_on_pole);

}  // namespace graticule::rows

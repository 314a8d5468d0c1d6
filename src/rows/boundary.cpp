#include "graticule/rows/boundary.hpp"

#include <algorithm>
#include <stdexcept>

#include "graticule/rows/interval.hpp"

namespace graticule::rows {
namespace {

[[noreturn]] void refuse(int64_t row, int64_t rows, const char* why) {
  throw std::invalid_argument("row " + std::to_string(row) + " of a grid of " + std::to_string(rows) + " rows: " + why);
}

// Mirrors at the first and last row themselves (period 2 (G - 1)).
Source mirror_on_row(int64_t row, int64_t rows) {
  if (rows < 2) refuse(row, rows, "reflection on a row needs at least 2 rows");
  const int64_t phase = modulo(row, 2 * (rows - 1));
  return phase < rows ? Source{phase, false} : Source{2 * (rows - 1) - phase, true};
}

// Mirrors half a row beyond the first and last row (period 2 G).
Source mirror_between_rows(int64_t row, int64_t rows) {
  const int64_t phase = modulo(row, 2 * rows);
  return phase < rows ? Source{phase, false} : Source{2 * rows - 1 - phase, true};
}

}  // namespace

Source source_row(Boundary boundary, int64_t row, int64_t rows) {
  if (0 <= row && row < rows) return {row, false};
  if (boundary == Boundary::zeros) return {};
  if (rows < 1) refuse(row, rows, "the grid has no rows to take it from");
  switch (boundary) {
    case Boundary::none:
      refuse(row, rows, "lies beyond the grid, and no boundary is given");
    case Boundary::reflect:
      return {mirror_on_row(row, rows).row, false};
    case Boundary::replicate:
      return {std::clamp<int64_t>(row, 0, rows - 1), false};
    case Boundary::circular:
      return {modulo(row, rows), false};
    case Boundary::pole_on_row:
      return mirror_on_row(row, rows);
    case Boundary::pole_between:
      return mirror_between_rows(row, rows);
    case Boundary::zeros:
      break;
  }
  return {};
}

Boundary boundary_from_name(const std::string& name, bool row_on_pole) {
  if (name == "none") return Boundary::none;
  if (name == "zeros") return Boundary::zeros;
  if (name == "reflect") return Boundary::reflect;
  if (name == "replicate") return Boundary::replicate;
  if (name == "circular") return Boundary::circular;
  if (name == "pole") return row_on_pole ? Boundary::pole_on_row : Boundary::pole_between;
  throw std::invalid_argument("unknown boundary \"" + name +
                              "\": expected none, zeros, reflect, replicate, circular or pole");
}

}  // namespace graticule::rows

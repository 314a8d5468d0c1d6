// A dimension extended beyond its ends by a boundary, and the adjoint.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "graticule/rows/boundary.hpp"
#include "graticule/rows/interval.hpp"

namespace graticule::ops {

/// Part of a grid of `size` rows along `dim`: a tensor with rows `held`.
struct HeldRows {
  int64_t dim = 0;
  rows::Interval held;
  int64_t size = 0;
};

/// Rows `wanted` of the grid extended by `boundary`, a copy. Every source row must be among those that t holds.
at::Tensor extended_rows(const at::Tensor& t, const HeldRows& place, rows::Interval wanted, rows::Boundary boundary);

/// The adjoint: adds `part`, values at rows `wanted` of the extended grid, to the rows of t that they come from.
void fold_rows_into(at::Tensor& t, const HeldRows& place, const at::Tensor& part, rows::Interval wanted,
                    rows::Boundary boundary);

}  // namespace graticule::ops

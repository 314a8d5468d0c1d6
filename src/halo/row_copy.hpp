// Copies of a few rows.
//
// A halo is small, and so is what packing it takes: a tensor operation costs more than the copy it makes. Where the
// memory allows it, rows are copied as bytes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace graticule::halo {

/// to[to_row + i] = from[from_row + i] along `dim`, i in [0, count). Same dtype and sizes beside `dim`; any strides.
void copy_rows(const at::Tensor& from, int64_t from_row, const at::Tensor& to, int64_t to_row, int64_t count,
               int64_t dim);

/// Zeros in rows [row, row + count).
void clear_rows(const at::Tensor& t, int64_t row, int64_t count, int64_t dim);

}  // namespace graticule::halo

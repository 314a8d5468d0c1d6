// The exchange primitive as a differentiable function.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "graticule/rows/interval.hpp"

namespace graticule::ops {

struct RowExchange {
  std::vector<int64_t> offsets;  ///< the cut of the grid: N + 1 offsets
  std::vector<int64_t> begins;   ///< rank r gets rows [begins[r], ends[r]) of the grid extended by the boundary
  std::vector<int64_t> ends;
  std::string boundary = "none";  ///< none, zeros, reflect, replicate, circular or pole
  int64_t dim = 0;                ///< the cut dimension, not negative
  int64_t lon_dim = -1;           ///< the longitudes, for pole
  bool row_on_pole = true;        ///< pole: row -1 is row 1 (true) or row 0 (false), half the longitudes away
  bool flip_sign = false;         ///< pole: values from the other side change sign
  std::string group;
};

/// One of several tensors of the same grid: how it lies.
struct RowsOf {
  at::Tensor tensor;       ///< this rank's own rows
  int64_t dim = 0;         ///< as in RowExchange, whose own is not looked at
  int64_t lon_dim = -1;    ///< likewise
  bool flip_sign = false;  ///< likewise
};

/// Rows [begins[rank], ends[rank]) of the extended grid. x holds this rank's own rows. All ranks must call.
at::Tensor gather_rows(const at::Tensor& x, const RowExchange& exchange);

/// The adjoint of gather_rows: g holds what gather_rows gave, the result this rank's own rows.
at::Tensor fold_rows(const at::Tensor& g, const RowExchange& exchange);

/// The same for several tensors at once, of any dtypes and sizes beside the rows, on one device: what goes to one rank
/// is one message. All ranks must call with as many.
std::vector<at::Tensor> gather_rows(const std::vector<RowsOf>& xs, const RowExchange& exchange);
std::vector<at::Tensor> fold_rows(const std::vector<RowsOf>& gs, const RowExchange& exchange);

}  // namespace graticule::ops

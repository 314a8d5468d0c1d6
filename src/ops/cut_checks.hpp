// Checks of what every rank knows, before the first message.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "graticule/comm/domain.hpp"
#include "graticule/ops/layers.hpp"
#include "graticule/rows/partition.hpp"

namespace graticule::ops {

/// Throws unless x is a floating-point tensor, cut.dim one of its spatial dimensions and cut.in_offsets a cut over the
/// ranks of the domain.
void check_cut(const at::Tensor& x, const Cut& cut, const comm::Domain& domain);

/// The output's cut for `rows` global output rows: cut.out_offsets where given (checked), else the default.
rows::Partition checked_output(const Cut& cut, int64_t rows, const comm::Domain& domain);

/// Throws, on the other ranks too, where x has another number of rows than this rank's part of `offsets`.
void check_own_rows(const at::Tensor& x, int64_t dim, const std::vector<int64_t>& offsets, const std::string& layer,
                    const comm::Domain& domain);

/// Whether autocast is on for x's device; false on a device that knows none, such as meta.
bool under_autocast(const at::Tensor& x);

}  // namespace graticule::ops

// Padding that is more than zeros: along the cut an exchange, across it local.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "graticule/ops/layers.hpp"

namespace graticule::ops {

/// Throws where torch.nn.functional.pad would refuse: padding of a dimension of `size` by that mode.
void check_padding(int64_t before, int64_t after, int64_t size, const std::string& mode, const Cut& cut);

/// The cut of the grid with `before` rows added at the first rank and `after` at the last: no row moves for it.
std::vector<int64_t> padded_offsets(const std::vector<int64_t>& offsets, int64_t before, int64_t after);

/// This rank's rows of the grid padded along the cut by mode reflect, replicate or circular; their cut is
/// padded_offsets(cut.in_offsets, before, after). Differentiable. All ranks must call.
at::Tensor pad_rows(const at::Tensor& x, int64_t before, int64_t after, const std::string& mode, const Cut& cut);

/// x padded in every spatial dimension but cut.dim, as torch.nn.functional.pad does in mode zeros, reflect, replicate
/// or circular. One entry a spatial dimension; the cut dimension's is ignored. Local, in x's memory format; a shard of
/// no rows is welcome.
at::Tensor pad_across(const at::Tensor& x, const std::vector<int64_t>& before, const std::vector<int64_t>& after,
                      const std::string& mode, const Cut& cut);

}  // namespace graticule::ops

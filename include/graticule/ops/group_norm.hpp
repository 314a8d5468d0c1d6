// Group normalisation of a cut tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <tuple>

#include "graticule/ops/layers.hpp"

namespace graticule::ops {

/// torch.nn.functional.group_norm of the whole tensor: this rank's rows. Differentiable. All ranks must call.
/// Statistics are taken in float32 or wider, combined in rank order in float64 (Chan, Golub and LeVeque 1979), so every
/// rank holds the same ones. A shard may have no rows.
at::Tensor group_norm(const at::Tensor& x, int64_t num_groups, const std::optional<at::Tensor>& weight,
                      const std::optional<at::Tensor>& bias, double eps, const Cut& cut);

}  // namespace graticule::ops

// The halo of a layer, as an object of its own.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "graticule/nn/cut_layer.hpp"

namespace graticule {

/// Adds to a shard the `halo_width` rows before and after it: rows of other ranks, zeros beyond the grid.
class HaloExchange : public CutLayer {
 public:
  explicit HaloExchange(int64_t halo_width, int64_t dim = -2, std::optional<comm::Domain> domain = std::nullopt);

  /// Rows taken from each side.
  int64_t halo_width;

  /// x with this rank's rows along dim; the result has 2 * halo_width more. Without a domain, or on one rank, x itself.
  /// Differentiable by the adjoint. All ranks must call.
  at::Tensor forward(const at::Tensor& x);

  /// x without its first `before` and last `after` rows along dim.
  static at::Tensor trim(const at::Tensor& x, int64_t before, int64_t after, int64_t dim = -2);
};

}  // namespace graticule

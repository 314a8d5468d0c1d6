// Interpolation of a cut tensor to a size of the whole grid.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <optional>
#include <string>
#include <vector>

#include "graticule/nn/cut_layer.hpp"
#include "graticule/nn/halo_exchange.hpp"

namespace graticule {

/// The options of torch.nn.functional.interpolate. One entry a spatial dimension, or one for all. Exactly one of size
/// (the whole grid's, on any number of ranks) and scale_factor is given.
struct InterpolateOptions {
  std::vector<int64_t> size{};
  std::vector<double> scale_factor{};
  std::string mode = "bilinear";
  std::optional<bool> align_corners{};
  std::optional<bool> recompute_scale_factor{};
  bool antialias = false;
};

/// Interpolates (N, C, spatial...): this rank's rows of what torch::nn::functional::interpolate gives on the uncut
/// tensor. All ranks of the domain must call.
/// Errors are those of DomainParallelConv2d.
class DomainParallelInterpolateImpl : public torch::nn::Module, public CutLayer {
 public:
  explicit DomainParallelInterpolateImpl(InterpolateOptions options, int64_t shard_dim = -2,
                                         std::optional<comm::Domain> domain = std::nullopt);
  /// Size of the whole output, bilinear unless `mode` says otherwise.
  explicit DomainParallelInterpolateImpl(std::vector<int64_t> size, std::string mode = "bilinear",
                                         int64_t shard_dim = -2, std::optional<comm::Domain> domain = std::nullopt);
  at::Tensor forward(const at::Tensor& x);

  const InterpolateOptions options;
  const std::vector<int64_t> size;
  const std::string mode;
  HaloExchange halo_exchange;
};
TORCH_MODULE(DomainParallelInterpolate);

}  // namespace graticule

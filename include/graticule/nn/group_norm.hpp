// Group normalisation of a cut tensor, over torch::nn::GroupNorm.
#pragma once

#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>

#include <optional>
#include <utility>

#include "graticule/nn/cut_layer.hpp"

namespace graticule {

/// Normalises (N, C, spatial...) of 3 to 5 dimensions over the whole grid; for (N, C, L) the last dimension is cut.
/// `norm`'s parameters are this module's too, below the name "norm". All ranks of the domain must call.
/// Errors are those of DomainParallelConv2d.
class DomainParallelGroupNormImpl : public torch::nn::Module, public CutLayer {
 public:
  explicit DomainParallelGroupNormImpl(torch::nn::GroupNorm norm, int64_t shard_dim = -2,
                                       std::optional<comm::Domain> domain = std::nullopt);
  DomainParallelGroupNormImpl(torch::nn::GroupNorm norm, comm::Domain domain)
      : DomainParallelGroupNormImpl(std::move(norm), -2, std::optional<comm::Domain>(std::move(domain))) {}
  at::Tensor forward(const at::Tensor& x);
  [[nodiscard]] at::Tensor weight() const { return norm->weight; }
  [[nodiscard]] at::Tensor bias() const { return norm->bias; }

  torch::nn::GroupNorm norm;
  int64_t num_groups;
  int64_t num_channels;
  double eps;
  bool affine;
};
TORCH_MODULE(DomainParallelGroupNorm);

}  // namespace graticule

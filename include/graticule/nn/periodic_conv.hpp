// Convolution on the globe: longitudes close, latitudes are reflected.
#pragma once

#include <torch/nn/modules/conv.h>
#include <torch/nn/pimpl.h>

#include <optional>
#include <utility>

#include "graticule/nn/cut_layer.hpp"
#include "graticule/nn/halo_exchange.hpp"

namespace graticule {

/// Pads (N, C, H, W) by `padding` columns on both sides, circularly, and by `padding` rows, reflected at the first and
/// last row, then convolves without further padding.
class PeriodicConv2dImpl : public torch::nn::Module {
 public:
  PeriodicConv2dImpl(int64_t channels_in, int64_t channels_out, int64_t kernel_size, int64_t padding = 1);
  at::Tensor forward(const at::Tensor& x);

  int64_t padding;
  torch::nn::Conv2d conv;
};
TORCH_MODULE(PeriodicConv2d);

/// A PeriodicConv2d of a tensor cut along H. Its parameters are the given module's, below the name "conv", as in the
/// module itself. All ranks of the domain must call.
/// Errors are those of DomainParallelConv2d.
class DomainParallelPeriodicConv2dImpl : public torch::nn::Module, public CutLayer {
 public:
  explicit DomainParallelPeriodicConv2dImpl(PeriodicConv2d periodic_conv, int64_t shard_dim = -2,
                                            std::optional<comm::Domain> domain = std::nullopt);
  DomainParallelPeriodicConv2dImpl(PeriodicConv2d periodic_conv, comm::Domain domain)
      : DomainParallelPeriodicConv2dImpl(std::move(periodic_conv), -2, std::optional<comm::Domain>(std::move(domain))) {
  }
  at::Tensor forward(const at::Tensor& x);
  [[nodiscard]] at::Tensor weight() const { return conv->weight; }
  [[nodiscard]] at::Tensor bias() const { return conv->bias; }

  torch::nn::Conv2d conv;
  int64_t padding;
  HaloExchange halo_exchange;

 private:
  PeriodicConv2d periodic_conv_;
};
TORCH_MODULE(DomainParallelPeriodicConv2d);

}  // namespace graticule

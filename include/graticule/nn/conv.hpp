// Convolutions of a cut tensor, over the torch::nn module of the same kind.
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/pimpl.h>

#include <optional>
#include <string>
#include <utility>

#include "graticule/nn/cut_layer.hpp"
#include "graticule/nn/halo_exchange.hpp"

namespace graticule {

/// A convolution over D spatial dimensions, one of them cut. `conv` keeps its parameters, which are this module's too,
/// below the name "conv". forward takes this rank's rows (N, C, spatial...) or (C, spatial...) and gives this rank's
/// rows of what `conv` gives on the uncut tensor. All ranks of the domain must call. Without a domain, or on one rank,
/// `conv` itself. Throws c10::ValueError or TypeError on every rank, before any message but that of the sizes, for what
/// every rank can see (dimensions, channels, dtype, a window larger than the grid), and c10::Error within the domain's
/// timeout where ranks differ.
template <size_t D, typename Conv>
class DomainParallelConvImpl : public torch::nn::Module, public CutLayer {
 public:
  DomainParallelConvImpl(Conv conv, int64_t shard_dim, std::optional<comm::Domain> domain, std::string name);
  at::Tensor forward(const at::Tensor& x);
  [[nodiscard]] at::Tensor weight() const { return conv->weight; }
  [[nodiscard]] at::Tensor bias() const { return conv->bias; }

  Conv conv;
  HaloExchange halo_exchange;
};

/// The same for a transposed convolution. output_size is the whole grid's.
template <size_t D, typename Conv>
class DomainParallelConvTransposeImpl : public torch::nn::Module, public CutLayer {
 public:
  DomainParallelConvTransposeImpl(Conv conv, int64_t shard_dim, std::optional<comm::Domain> domain, std::string name);
  at::Tensor forward(const at::Tensor& x, const std::optional<at::IntArrayRef>& output_size = std::nullopt);
  [[nodiscard]] at::Tensor weight() const { return conv->weight; }
  [[nodiscard]] at::Tensor bias() const { return conv->bias; }

  Conv conv;
  int64_t halo_width;  ///< rows needed from the wider side at a cut that lines up with the stride
  HaloExchange halo_exchange;
};

#define GRATICULE_CONV_MODULE(Name, Base, D, Conv, default_dim)                                         \
  class Name##Impl : public Base<D, Conv> {                                                             \
   public:                                                                                              \
    explicit Name##Impl(Conv module, int64_t shard_dim = default_dim,                                   \
                        std::optional<comm::Domain> domain = std::nullopt)                              \
        : Base<D, Conv>(std::move(module), shard_dim, std::move(domain), #Name) {}                      \
    Name##Impl(Conv module, comm::Domain domain)                                                        \
        : Name##Impl(std::move(module), default_dim, std::optional<comm::Domain>(std::move(domain))) {} \
  };                                                                                                    \
  TORCH_MODULE(Name)

GRATICULE_CONV_MODULE(DomainParallelConv1d, DomainParallelConvImpl, 1, torch::nn::Conv1d, -1);
GRATICULE_CONV_MODULE(DomainParallelConv2d, DomainParallelConvImpl, 2, torch::nn::Conv2d, -2);
GRATICULE_CONV_MODULE(DomainParallelConv3d, DomainParallelConvImpl, 3, torch::nn::Conv3d, 3);
GRATICULE_CONV_MODULE(DomainParallelConvTranspose1d, DomainParallelConvTransposeImpl, 1, torch::nn::ConvTranspose1d,
                      -1);
GRATICULE_CONV_MODULE(DomainParallelConvTranspose2d, DomainParallelConvTransposeImpl, 2, torch::nn::ConvTranspose2d,
                      -2);
GRATICULE_CONV_MODULE(DomainParallelConvTranspose3d, DomainParallelConvTransposeImpl, 3, torch::nn::ConvTranspose3d, 3);

#undef GRATICULE_CONV_MODULE

}  // namespace graticule

#include "graticule/nn/group_norm.hpp"

#include <ATen/ATen.h>

#include <utility>

#include "graticule/ops/group_norm.hpp"

namespace graticule {

DomainParallelGroupNormImpl::DomainParallelGroupNormImpl(torch::nn::GroupNorm module, int64_t shard_dim,
                                                         std::optional<comm::Domain> domain)
    : CutLayer("DomainParallelGroupNorm", shard_dim, std::move(domain)),
      norm(register_module("norm", std::move(module))),
      num_groups(norm->options.num_groups()),
      num_channels(norm->options.num_channels()),
      eps(norm->options.eps()),
      affine(norm->options.affine()) {}

at::Tensor DomainParallelGroupNormImpl::forward(const at::Tensor& x) {
  const auto domain = active_domain();
  if (!domain.has_value()) return norm->forward(x);
  const auto options = [&] {
    return c10::str(num_groups, " groups, eps ", eps, norm->weight.defined() ? ", affine" : "");
  };
  return on_cut(x, x.dim() - 2, *domain, options, [&](const at::Tensor& input, const ops::Cut& cut) {
    return ops::group_norm(input, num_groups, optional_of(norm->weight), optional_of(norm->bias), eps, cut);
  });
}

}  // namespace graticule

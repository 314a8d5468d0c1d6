#include "graticule/nn/periodic_conv.hpp"

#include <ATen/ATen.h>

#include <utility>

#include "graticule/rows/stencil.hpp"
#include "nn/conv_options.hpp"

namespace graticule {

PeriodicConv2dImpl::PeriodicConv2dImpl(int64_t channels_in, int64_t channels_out, int64_t kernel_size, int64_t pad)
    : padding(pad),
      conv(register_module("conv",
                           torch::nn::Conv2d(torch::nn::Conv2dOptions(channels_in, channels_out, kernel_size)))) {}

at::Tensor PeriodicConv2dImpl::forward(const at::Tensor& x) {
  const at::Tensor around = at::pad(x, {padding, padding, 0, 0}, "circular");
  return conv->forward(at::pad(around, {0, 0, padding, padding}, "reflect"));
}

DomainParallelPeriodicConv2dImpl::DomainParallelPeriodicConv2dImpl(PeriodicConv2d periodic_conv, int64_t shard_dim,
                                                                   std::optional<comm::Domain> domain)
    : CutLayer("DomainParallelPeriodicConv2d", shard_dim, domain),
      conv(register_module("conv", periodic_conv->conv)),
      padding(periodic_conv->padding),
      halo_exchange(rows::halo_width({conv->options.kernel_size()->at(0), conv->options.stride()->at(0), padding,
                                      conv->options.dilation()->at(0)}),
                    shard_dim, domain),
      periodic_conv_(std::move(periodic_conv)) {}

at::Tensor DomainParallelPeriodicConv2dImpl::forward(const at::Tensor& x) {
  const auto domain = active_domain();
  if (!domain.has_value()) return periodic_conv_->forward(x);
  const auto options = [&] { return c10::str(text_of(conv), ", periodic padding ", padding); };
  return on_cut(x, 2, *domain, options, [&](const at::Tensor& input, const ops::Cut& cut) {
    return ops::periodic_conv(input, conv->weight, optional_of(conv->bias), conv_arguments<2>(conv->options),
                              {padding, padding}, cut);
  });
}

}  // namespace graticule

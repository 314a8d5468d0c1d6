#include "graticule/nn/conv.hpp"

#include <ATen/ATen.h>

#include <utility>

#include "graticule/rows/stencil.hpp"
#include "nn/conv_options.hpp"

namespace graticule {
namespace {

// Index of the cut dimension among the spatial ones.
template <size_t D>
size_t spatial_index(int64_t shard_dim, const std::string& name) {
  const int64_t index = shard_dim < 0 ? shard_dim + static_cast<int64_t>(D) : shard_dim - 2;
  TORCH_CHECK_VALUE(index >= 0 && index < static_cast<int64_t>(D), name, ": shard_dim ", shard_dim,
                    " is not a spatial dimension of a layer of ", D);
  return static_cast<size_t>(index);
}

template <size_t D, typename Conv>
int64_t conv_halo(const Conv& conv, int64_t shard_dim, const std::string& name) {
  const size_t i = spatial_index<D>(shard_dim, name);
  const ops::ConvArguments a = conv_arguments<D>(conv->options);
  return rows::halo_width({conv->options.kernel_size()->at(i), a.stride[i], a.pad_before[i], a.dilation[i]});
}

template <size_t D, typename Conv>
int64_t transposed_halo(const Conv& conv, int64_t shard_dim, const std::string& name) {
  const size_t i = spatial_index<D>(shard_dim, name);
  const ops::ConvArguments a = conv_arguments<D>(conv->options);
  TORCH_CHECK_VALUE(a.stride[i] >= 1, name, ": expected every stride to be at least 1, got ",
                    c10::IntArrayRef(a.stride));
  return rows::transposed_halo_width({conv->options.kernel_size()->at(i), a.stride[i], a.pad_before[i], a.dilation[i]});
}

// Torch pads by the weight, but where padding_mode is another than zeros: then by what the options were at first.
template <size_t D, typename Conv>
ops::ConvArguments arguments_of(const Conv& conv) {
  const bool zeros = std::holds_alternative<torch::enumtype::kZeros>(conv->options.padding_mode());
  return conv_arguments<D>(conv->options, zeros ? conv->weight.sizes().slice(2) : at::IntArrayRef());
}

// What output_size asks for beyond the smallest output, as torch.nn.ConvTranspose2d defines it.
template <size_t D>
std::vector<int64_t> output_padding(const torch::nn::detail::ConvNdOptions<D>& options, const at::Tensor& x,
                                    const ops::Cut& cut, const std::optional<at::IntArrayRef>& output_size) {
  if (!output_size.has_value()) return list_of<D>(options.output_padding());
  at::IntArrayRef size = *output_size;
  if (size.size() == D + 2) size = size.slice(2);
  TORCH_CHECK_VALUE(size.size() == D, cut.layer, ": expected an output_size of ", D, " or ", D + 2, " values, got ",
                    output_size->size());
  const ops::ConvArguments a = conv_arguments<D>(options);
  std::vector<int64_t> result;
  for (size_t i = 0; i < D; ++i) {
    const int64_t dim = static_cast<int64_t>(i) + 2;
    const int64_t input = dim == cut.dim ? cut.in_offsets.back() : x.size(dim);
    // torch's modules in C++, other than those in Python, leave dilation out here.
    const rows::Stencil s{options.kernel_size()->at(i), a.stride[i], a.pad_before[i], /*dilation=*/1};
    const int64_t least = rows::fine_size(s, input, 0);
    TORCH_CHECK_VALUE(size[i] >= least && size[i] < least + a.stride[i], cut.layer, ": expected an output_size of ",
                      least, " to ", least + a.stride[i] - 1, " in spatial dimension ", i, ", got ", size[i]);
    result.push_back(size[i] - least);
  }
  return result;
}

}  // namespace

template <size_t D, typename Conv>
DomainParallelConvImpl<D, Conv>::DomainParallelConvImpl(Conv module, int64_t shard_dim,
                                                        std::optional<comm::Domain> domain, std::string name)
    : CutLayer(name, shard_dim, domain),
      conv(register_module("conv", std::move(module))),
      halo_exchange(conv_halo<D>(conv, shard_dim, name), shard_dim, domain) {}

template <size_t D, typename Conv>
at::Tensor DomainParallelConvImpl<D, Conv>::forward(const at::Tensor& x) {
  const auto domain = active_domain();
  if (!domain.has_value()) return conv->forward(x);
  const auto options = [&] { return text_of(conv); };
  return on_cut(x, D, *domain, options, [&](const at::Tensor& input, const ops::Cut& cut) {
    return ops::conv(input, conv->weight, optional_of(conv->bias), arguments_of<D>(conv), cut);
  });
}

template <size_t D, typename Conv>
DomainParallelConvTransposeImpl<D, Conv>::DomainParallelConvTransposeImpl(Conv module, int64_t shard_dim,
                                                                          std::optional<comm::Domain> domain,
                                                                          std::string name)
    : CutLayer(name, shard_dim, domain),
      conv(register_module("conv", std::move(module))),
      halo_width(transposed_halo<D>(conv, shard_dim, name)),
      halo_exchange(halo_width, shard_dim, domain) {}

template <size_t D, typename Conv>
at::Tensor DomainParallelConvTransposeImpl<D, Conv>::forward(const at::Tensor& x,
                                                             const std::optional<at::IntArrayRef>& output_size) {
  const auto domain = active_domain();
  if (!domain.has_value()) return conv->forward(x, output_size);
  const auto options = [&] {
    return c10::str(text_of(conv), ", output_size ", output_size.value_or(at::IntArrayRef()));
  };
  return on_cut(x, D, *domain, options, [&](const at::Tensor& input, const ops::Cut& cut) {
    const ops::ConvArguments a = conv_arguments<D>(conv->options);
    return ops::conv_transpose(
        input, conv->weight, optional_of(conv->bias),
        {a.stride, a.pad_before, output_padding<D>(conv->options, input, cut, output_size), a.dilation, a.groups}, cut);
  });
}

template class DomainParallelConvImpl<1, torch::nn::Conv1d>;
template class DomainParallelConvImpl<2, torch::nn::Conv2d>;
template class DomainParallelConvImpl<3, torch::nn::Conv3d>;
template class DomainParallelConvTransposeImpl<1, torch::nn::ConvTranspose1d>;
template class DomainParallelConvTransposeImpl<2, torch::nn::ConvTranspose2d>;
template class DomainParallelConvTransposeImpl<3, torch::nn::ConvTranspose3d>;

}  // namespace graticule

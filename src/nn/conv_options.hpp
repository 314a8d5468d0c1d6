// torch::nn's convolution options as plain lists.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/options/conv.h>

#include <sstream>
#include <string>
#include <variant>

#include "graticule/ops/layers.hpp"
#include "graticule/rows/stencil.hpp"

namespace graticule {

template <size_t D>
std::vector<int64_t> list_of(const torch::ExpandingArray<D>& values) {
  return {values->begin(), values->end()};
}

inline std::string padding_mode_name(const torch::nn::detail::conv_padding_mode_t& mode) {
  if (std::holds_alternative<torch::enumtype::kReflect>(mode)) return "reflect";
  if (std::holds_alternative<torch::enumtype::kReplicate>(mode)) return "replicate";
  if (std::holds_alternative<torch::enumtype::kCircular>(mode)) return "circular";
  return "zeros";
}

/// The options of a convolution; "same" padding of an even window puts the odd row after, as torch does. `window`: the
/// sizes of the kernel where they are not the options'.
template <size_t D>
ops::ConvArguments conv_arguments(const torch::nn::detail::ConvNdOptions<D>& options, at::IntArrayRef window = {}) {
  ops::ConvArguments a;
  a.stride = list_of<D>(options.stride());
  a.dilation = list_of<D>(options.dilation());
  a.groups = options.groups();
  a.padding_mode = padding_mode_name(options.padding_mode());
  if (std::holds_alternative<torch::ExpandingArray<D>>(options.padding())) {
    a.pad_before = list_of<D>(std::get<torch::ExpandingArray<D>>(options.padding()));
    a.pad_after = a.pad_before;
    return a;
  }
  const bool same = std::holds_alternative<torch::enumtype::kSame>(options.padding());
  if (window.empty()) window = *options.kernel_size();
  for (size_t i = 0; i < D; ++i) {
    const int64_t total = same ? options.dilation()->at(i) * (window[i] - 1) : 0;
    a.pad_before.push_back(total / 2);
    a.pad_after.push_back(total - total / 2);
  }
  return a;
}

/// For check mode: a convolution as it prints itself, and its weight.
template <typename Module>
std::string text_of(const Module& conv) {
  std::ostringstream text;
  text << *conv << " with a weight of " << conv->weight.sizes();
  return text.str();
}

}  // namespace graticule

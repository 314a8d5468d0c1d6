#include "ops/local_convolution.hpp"

#include <ATen/ATen.h>

#include "graticule/halo/memory_format.hpp"

namespace graticule::ops {
namespace {

// ATen's three-dimensional transposed convolution falls back on a contiguous kernel where output padding reaches the
// stride; along the cut the local call has no output padding, and would not.
bool falls_back_on_contiguous(const at::Tensor& x, const ConvolutionOptions& options) {
  if (!options.transposed || x.dim() != 5) return false;
  for (size_t i = 0; i < options.stride.size(); ++i) {
    if (options.output_padding[i] >= options.stride[i]) return true;
  }
  return false;
}

}  // namespace

at::Tensor run_convolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                           const ConvolutionOptions& o) {
  return at::convolution(x, weight, bias, o.stride, o.padding, o.dilation, o.transposed, o.output_padding, o.groups);
}

ConvolutionGradients run_convolution_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                                              const ConvolutionOptions& o, std::array<bool, 3> wanted) {
  const std::array<int64_t, 1> bias_sizes{grad.size(1)};
  return at::convolution_backward(grad, x, weight, wanted[2] ? at::OptionalIntArrayRef(bias_sizes) : std::nullopt,
                                  o.stride, o.padding, o.dilation, o.transposed, o.output_padding, o.groups, wanted);
}

ConvolutionOptions window_options(ConvolutionOptions options, int64_t dim) {
  if (options.across_boundary != rows::Boundary::zeros) options.padding.assign(options.padding.size(), 0);
  options.padding[dim - 2] = 0;
  options.output_padding[dim - 2] = 0;
  return options;
}

ConvolutionOptions fitted_options(ConvolutionOptions options, const rows::LocalFit& fit, int64_t dim) {
  options.padding[dim - 2] = fit.padding;
  options.output_padding[dim - 2] = fit.output_padding;
  return options;
}

std::vector<int64_t> output_sizes(const at::Tensor& x, const at::Tensor& weight, const ConvolutionOptions& options,
                                  int64_t dim, int64_t rows) {
  const auto dims = static_cast<size_t>(x.dim() - 2);
  for (const auto* values : {&options.stride, &options.padding, &options.dilation, &options.output_padding}) {
    TORCH_CHECK_VALUE(values->size() == dims, "convolution: expected options of ", dims, " values for an input of ",
                      x.sizes(), ", got ", c10::IntArrayRef(*values));
  }
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes[1] = options.transposed ? weight.size(1) * options.groups : weight.size(0);
  for (int64_t d = 2; d < x.dim(); ++d) {
    const rows::Stencil s = stencil(options, weight, d);
    sizes[d] = options.transposed ? rows::fine_size(s, x.size(d), options.output_padding[d - 2])
                                  : rows::coarse_size(s, x.size(d), s.padding);
  }
  sizes[dim] = rows;
  return sizes;
}

at::MemoryFormat output_format(const at::Tensor& x, const at::Tensor& weight, const ConvolutionOptions& options) {
  if (falls_back_on_contiguous(x, options)) return at::MemoryFormat::Contiguous;
  const at::MemoryFormat format = halo::memory_format(x);
  return format == at::MemoryFormat::Contiguous ? halo::memory_format(weight) : format;
}

at::Tensor in_format_of_whole(const at::Tensor& y, const at::Tensor& x, const at::Tensor& weight,
                              const ConvolutionOptions& whole, const ConvolutionOptions& local) {
  if (falls_back_on_contiguous(x, whole)) return y.contiguous();
  return falls_back_on_contiguous(x, local) ? y.contiguous(output_format(x, weight, whole)) : y;
}

}  // namespace graticule::ops

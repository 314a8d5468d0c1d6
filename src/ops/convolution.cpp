#include "graticule/ops/convolution.hpp"

#include <ATen/ATen.h>

#include <utility>

#include "ops/convolution_call.hpp"

namespace graticule::ops {
namespace {

using rows::Interval;
using Bias = std::optional<at::Tensor>;

// Output rows of the whole windows `window`, rows `needs` of the input, and the first of them: `strip.begin` or before.
std::pair<at::Tensor, int64_t> output_strip(const ConvolutionCall& c, const at::Tensor& window, Interval needs,
                                            const Bias& bias, Interval strip) {
  const at::Tensor y = run_convolution(c.bordered(window), c.weight, bias, window_options(c.options, c.dim));
  // A transposed convolution of whole windows gives their whole span.
  return {y, c.options.transposed ? needs.begin * c.s.stride - c.s.padding : strip.begin};
}

// Columns `strip` of dimension d, whose windows reach over the edge: computed from a slab with its border around it.
void overwrite_columns(const ConvolutionCall& c, at::Tensor& y, const at::Tensor& x, const Bias& bias, int64_t d,
                       Interval strip) {
  if (strip.empty()) return;
  const rows::Stencil s = stencil(c.options, c.weight, d);
  at::Tensor slab = extended_rows(x, c.columns(d), rows::fine_rows(s, strip), c.options.across_boundary);
  for (int64_t other = 2; other < x.dim(); ++other) {
    if (other != c.dim && other != d && c.options.padding[other - 2] > 0) {
      slab = extended_rows(slab, c.columns(other), c.padded_columns(other), c.options.across_boundary);
    }
  }
  const ConvolutionOptions options = fitted_options(window_options(c.options, c.dim), c.plan->fit, c.dim);
  y.narrow(d, strip.begin, strip.size()).copy_(run_convolution(slab, c.weight, bias, options));
}

// A local convolution knows zeros beyond the edges: what lies there otherwise is put in by strips of columns.
void close_columns(const ConvolutionCall& c, at::Tensor& y, const at::Tensor& x, const Bias& bias) {
  if (!c.bordered_across()) return;
  for (int64_t d = 2; d < x.dim(); ++d) {
    if (d == c.dim) continue;
    const rows::Seams seams = c.edge_columns(d);
    overwrite_columns(c, y, x, bias, d, seams.before);
    overwrite_columns(c, y, x, bias, d, {std::max(seams.after.begin, seams.before.end), seams.after.end});
  }
}

}  // namespace

rows::Stencil stencil(const ConvolutionOptions& options, const at::Tensor& weight, int64_t dim) {
  return {weight.size(dim), options.stride[dim - 2], options.padding[dim - 2], options.dilation[dim - 2]};
}

at::Tensor convolution_shape(const at::Tensor& x, const at::Tensor& weight, const ConvolutionOptions& options,
                             const Placement& placement, int rank) {
  const auto sizes = output_sizes(x, weight, options, placement.dim, placement.output.interval(rank).size());
  return at::empty(sizes, x.options().memory_format(output_format(x, weight, options)));
}

at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const Bias& bias,
                       const ConvolutionOptions& options, const Placement& placement) {
  const ConvolutionCall c(x, weight, options, placement);
  const Strips& strips = c.plan->forward;
  const ConvolutionTrace trace(placement, "forward", strips);
  halo::Gather gather = c.start(x, strips, "forward");
  if (c.output.empty()) {
    gather.finish_parts();
    return convolution_shape(x, weight, options, placement, c.rank);
  }
  if (strips.whole) {
    const at::Tensor window = gather.finish_parts()[0];
    const auto [y, begin] = output_strip(c, window, strips.before_needs, bias, strips.before);
    return in_format_of_whole(crop(y, c.dim, begin, c.output), x, weight, options, window_options(options, c.dim));
  }
  gather.keep_moving();
  const ConvolutionOptions local = fitted_options(options, c.plan->fit, c.dim);
  at::Tensor y = run_convolution(x, weight, bias, local);
  close_columns(c, y, x, bias);
  const std::vector<at::Tensor> windows = gather.finish_parts();
  const auto mend = [&](const at::Tensor& window, Interval strip, Interval needs) {
    if (strip.empty()) return;
    const auto [rows, begin] = output_strip(c, window, needs, bias, strip);
    overwrite(y, c.output, rows, begin, strip, c.dim);
  };
  mend(windows[0], strips.before, strips.before_needs);
  mend(windows[1], strips.after, strips.after_needs);
  return in_format_of_whole(y, x, weight, options, local);
}

}  // namespace graticule::ops

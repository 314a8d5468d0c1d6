#include "graticule/ops/convolution.hpp"

#include <ATen/ATen.h>

#include <utility>

#include "graticule/halo/memory_format.hpp"
#include "halo/row_copy.hpp"
#include "ops/call_trace.hpp"
#include "ops/convolution_call.hpp"

namespace graticule::ops {
namespace {

using rows::Interval;
using Bias = std::optional<at::Tensor>;

// Output rows of the whole windows `window`, rows `needs` of the input, and the first of them: `strip.begin` or before.
std::pair<at::Tensor, int64_t> output_strip(const ConvolutionCall& c, const at::Tensor& window, Interval needs,
                                            const Bias& bias, Interval strip) {
  const at::Tensor y = run_convolution(c.bordered(window), c.weight, bias, c.plan->windows);
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
  ConvolutionOptions options = c.plan->windows;
  options.padding[c.dim - 2] = c.plan->local.padding[c.dim - 2];
  options.output_padding[c.dim - 2] = c.plan->local.output_padding[c.dim - 2];
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

ConvolutionHalo empty_halo(const at::Tensor& x, int64_t dim, const rows::Seams& kept) {
  return {halo::empty_rows(x, dim, kept.before.size()), halo::empty_rows(x, dim, kept.after.size())};
}

// Copies of what is to be kept of the forward windows, so that the windows themselves can go.
void keep_rows(const ConvolutionCall& c, const std::vector<at::Tensor>& windows, ConvolutionHalo& halo) {
  const Strips& strips = c.plan->forward;
  const auto keep = [&](const at::Tensor& window, Interval needs, Interval rows, const at::Tensor& kept) {
    if (!rows.empty()) halo::copy_rows(window, rows.begin - needs.begin, kept, 0, rows.size(), c.dim);
  };
  const rows::Seams& kept = c.plan->kept;
  keep(windows[0], strips.before_needs, kept.before, halo.before);
  if (strips.whole) {
    keep(windows[0], strips.before_needs, kept.after, halo.after);
  } else {
    keep(windows[1], strips.after_needs, kept.after, halo.after);
  }
}

}  // namespace

at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const Bias& bias,
                       const ConvolutionArguments& arguments, ConvolutionHalo* halo) {
  const ConvolutionCall c(x, weight, arguments);
  const Strips& strips = c.plan->forward;
  const CallTrace trace(c.placement.layer, "forward", strips.reason);
  halo::Gather gather = c.start(x, strips);
  if (halo != nullptr) *halo = empty_halo(x, c.dim, c.plan->kept);
  if (c.output.empty()) {
    gather.finish_parts();
    return convolution_shape(x, weight, c.options, c.placement, c.rank);
  }
  if (strips.whole) {
    const std::vector<at::Tensor> windows = gather.finish_parts();
    if (halo != nullptr) keep_rows(c, windows, *halo);
    const auto [y, begin] = output_strip(c, windows[0], strips.before_needs, bias, strips.before);
    return in_format_of_whole(crop(y, c.dim, begin, c.output), x, weight, c.options, c.plan->windows);
  }
  gather.keep_moving();
  at::Tensor y = run_convolution(x, weight, bias, c.plan->local);
  close_columns(c, y, x, bias);
  const std::vector<at::Tensor> windows = gather.finish_parts();
  if (halo != nullptr) keep_rows(c, windows, *halo);
  const auto mend = [&](const at::Tensor& window, Interval strip, Interval needs) {
    if (strip.empty()) return;
    const auto [rows, begin] = output_strip(c, window, needs, bias, strip);
    overwrite(y, c.output, rows, begin, strip, c.dim);
  };
  mend(windows[0], strips.before, strips.before_needs);
  mend(windows[1], strips.after, strips.after_needs);
  return in_format_of_whole(y, x, weight, c.options, c.plan->local);
}

rows::Stencil stencil(const ConvolutionOptions& options, const at::Tensor& weight, int64_t dim) {
  return {weight.size(dim), options.stride[dim - 2], options.padding[dim - 2], options.dilation[dim - 2]};
}

at::Tensor convolution_shape(const at::Tensor& x, const at::Tensor& weight, const ConvolutionOptions& options,
                             const Placement& placement, int rank) {
  const auto sizes = output_sizes(x, weight, options, placement.dim, placement.output.interval(rank).size());
  return at::empty(sizes, x.options().memory_format(output_format(x, weight, options)));
}

ConvolutionHalo convolution_halo_shape(const at::Tensor& x, const at::Tensor& weight, const ConvolutionOptions& options,
                                       const Placement& placement, int rank) {
  const auto arguments = find_arguments(options, placement);
  return empty_halo(x, placement.dim, find_strip_plan(x, weight, *arguments, rank)->kept);
}

at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const Bias& bias,
                       const ConvolutionOptions& options, const Placement& placement) {
  return convolution(x, weight, bias, *find_arguments(options, placement), nullptr);
}

std::pair<at::Tensor, ConvolutionHalo> convolution_with_halo(const at::Tensor& x, const at::Tensor& weight,
                                                             const Bias& bias, const ConvolutionOptions& options,
                                                             const Placement& placement) {
  ConvolutionHalo halo;
  at::Tensor y = convolution(x, weight, bias, *find_arguments(options, placement), &halo);
  return {std::move(y), std::move(halo)};
}

ConvolutionHalo convolution_halo(const at::Tensor& x, const at::Tensor& weight, const ConvolutionArguments& arguments) {
  const ConvolutionCall c(x, weight, arguments);
  ConvolutionHalo halo = empty_halo(x, c.dim, c.plan->kept);
  if (c.plan->weight_by_output_rows) {
    keep_rows(c, c.start(x, c.plan->forward, c.plan->halo_tag).finish_parts(), halo);
  }
  return halo;
}

}  // namespace graticule::ops

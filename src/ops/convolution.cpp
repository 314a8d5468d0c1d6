#include "graticule/ops/convolution.hpp"

#include <ATen/ATen.h>

#include <utility>

#include "graticule/halo/exchange.hpp"
#include "graticule/halo/memory_format.hpp"
#include "graticule/halo/plans.hpp"

namespace graticule::ops {
namespace {

using rows::Interval;
using rows::Partition;
using rows::Stencil;

// A strip of few positions makes the local kernel choose another blocking, which changes the last bits. Such a strip is
// computed with the rows beside it, and those are thrown away. float64 has no bits to keep: there kernels block by
// size.
constexpr int64_t least_positions = 256;

Interval widened(Interval strip, int64_t grid_rows, int64_t positions_per_row) {
  if (strip.empty() || positions_per_row < 1) return strip;
  const int64_t missing = rows::ceil_div(least_positions, positions_per_row) - strip.size();
  if (missing <= 0) return strip;
  Interval wide{std::max<int64_t>(strip.begin - (missing + 1) / 2, 0), 0};
  wide.end = std::min(grid_rows, std::max(strip.end, wide.begin + strip.size() + missing));
  wide.begin = std::max<int64_t>(0, std::min(wide.begin, wide.end - strip.size() - missing));
  return wide;
}

// The rows that each rank computes: its own, widened where they are few.
std::vector<Interval> computed_rows(const Partition& partition, const at::Tensor& like, int64_t positions_per_row) {
  std::vector<Interval> result;
  for (int rank = 0; rank < partition.ranks(); ++rank) {
    const Interval own = partition.interval(rank);
    result.push_back(like.scalar_type() == at::kDouble ? own : widened(own, partition.rows(), positions_per_row));
  }
  return result;
}

std::vector<Interval> map_rows(const std::vector<Interval>& intervals, const Stencil& s,
                               Interval (*needed)(const Stencil&, Interval)) {
  std::vector<Interval> result;
  for (const Interval& interval : intervals) result.push_back(needed(s, interval));
  return result;
}

// Options of the local convolution of whole windows: no padding along the cut dimension.
ConvolutionOptions without_padding(ConvolutionOptions options, int64_t dim) {
  options.padding[dim - 2] = 0;
  options.output_padding[dim - 2] = 0;
  return options;
}

// Sizes of the uncut layer's output across the cut dimension; along it, `rows`.
std::vector<int64_t> output_sizes(const at::Tensor& x, const at::Tensor& weight, const ConvolutionOptions& options,
                                  int64_t dim, int64_t rows) {
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes[1] = options.transposed ? weight.size(1) * options.groups : weight.size(0);
  for (int64_t d = 2; d < x.dim(); ++d) {
    const Stencil s = stencil(options, weight, d);
    sizes[d] = options.transposed ? rows::fine_size(s, x.size(d), options.output_padding[d - 2])
                                  : rows::coarse_size(s, x.size(d), s.padding);
  }
  sizes[dim] = rows;
  return sizes;
}

int64_t positions_per_row(at::IntArrayRef sizes, int64_t dim) {
  int64_t positions = 1;
  for (int64_t d = 2; d < static_cast<int64_t>(sizes.size()); ++d) {
    if (d != dim) positions *= sizes[d];
  }
  return positions;
}

// ATen's three-dimensional transposed convolution falls back on a contiguous kernel where output padding reaches the
// stride; along the cut the local call has no output padding, and would not.
bool falls_back_on_contiguous(const at::Tensor& x, const ConvolutionOptions& options) {
  if (!options.transposed || x.dim() != 5) return false;
  for (size_t i = 0; i < options.stride.size(); ++i) {
    if (options.output_padding[i] >= options.stride[i]) return true;
  }
  return false;
}

at::MemoryFormat format_of(const at::Tensor& x, const at::Tensor& weight, const ConvolutionOptions& options) {
  if (falls_back_on_contiguous(x, options)) return at::MemoryFormat::Contiguous;
  const at::MemoryFormat format = halo::memory_format(x);
  return format == at::MemoryFormat::Contiguous ? halo::memory_format(weight) : format;
}

// What the ranks must agree on beside the rows that travel.
comm::Facts call_facts(const at::Tensor& weight, const ConvolutionOptions& o, const Placement& placement,
                       const char* direction) {
  comm::Facts facts;
  facts.add(direction).add(weight.sizes().vec()).add(o.stride).add(o.padding).add(o.dilation).add(o.output_padding);
  facts.add(static_cast<int64_t>(o.transposed)).add(o.groups);
  facts.add(placement.input.offsets()).add(placement.output.offsets());
  return facts;
}

at::Tensor gather(const at::Tensor& t, const Partition& partition, const std::vector<Interval>& wanted,
                  const Placement& placement, const comm::Facts& facts) {
  const comm::Domain domain = comm::Domain::from_group_name(placement.group);
  auto plan = halo::find_plan(partition, wanted, rows::Boundary::zeros, domain.rank());
  return halo::Gather(t, std::move(plan), {placement.dim}, domain, placement.layer, facts).finish();
}

// Rows `own` of a tensor that holds rows from `begin` on, in memory of their own where that is not all of them.
at::Tensor crop(const at::Tensor& t, int64_t dim, int64_t begin, Interval own) {
  if (begin == own.begin && t.size(dim) == own.size()) return t;
  return t.narrow(dim, own.begin - begin, own.size()).contiguous(halo::memory_format(t));
}

// This rank's rows of x among `count` rows from `begin` on, zeros elsewhere.
at::Tensor embed(const at::Tensor& x, int64_t dim, Interval own, int64_t begin, int64_t count) {
  if (begin == own.begin && count == own.size()) return x;
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes[dim] = count;
  at::Tensor result = at::empty(sizes, x.options().memory_format(halo::memory_format(x))).zero_();
  result.narrow(dim, own.begin - begin, own.size()).copy_(x);
  return result;
}

at::Tensor local_convolution(const at::Tensor& window, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                             const ConvolutionOptions& local) {
  return at::convolution(window, weight, bias, local.stride, local.padding, local.dilation, local.transposed,
                         local.output_padding, local.groups);
}

std::vector<int64_t> parameter_axes(const at::Tensor& grad) {
  std::vector<int64_t> axes{0};
  for (int64_t d = 2; d < grad.dim(); ++d) axes.push_back(d);
  return axes;
}

}  // namespace

rows::Stencil stencil(const ConvolutionOptions& options, const at::Tensor& weight, int64_t dim) {
  return {weight.size(dim), options.stride[dim - 2], options.padding[dim - 2], options.dilation[dim - 2]};
}

at::Tensor convolution_shape(const at::Tensor& x, const at::Tensor& weight, const ConvolutionOptions& options,
                             const Placement& placement, int rank) {
  const auto sizes = output_sizes(x, weight, options, placement.dim, placement.output.interval(rank).size());
  return at::empty(sizes, x.options().memory_format(format_of(x, weight, options)));
}

at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       const ConvolutionOptions& options, const Placement& placement) {
  const int64_t dim = placement.dim;
  const Stencil s = stencil(options, weight, dim);
  const comm::Domain domain = comm::Domain::from_group_name(placement.group);
  const Interval own = placement.output.interval(domain.rank());
  const std::vector<int64_t> sizes = output_sizes(x, weight, options, dim, own.size());
  const std::vector<Interval> computed = computed_rows(placement.output, x, positions_per_row(sizes, dim));
  const std::vector<Interval> wanted = map_rows(computed, s, options.transposed ? rows::coarse_rows : rows::fine_rows);
  const at::Tensor window =
      gather(x, placement.input, wanted, placement, call_facts(weight, options, placement, "forward"));
  if (own.empty()) return convolution_shape(x, weight, options, placement, domain.rank());
  const at::Tensor y = local_convolution(window, weight, bias, without_padding(options, dim));
  const int64_t first =
      options.transposed ? rows::fine_rows(s, wanted[domain.rank()]).begin : computed[domain.rank()].begin;
  const at::Tensor result = crop(y, dim, first, own);
  return falls_back_on_contiguous(x, options) ? result.contiguous() : result;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(const at::Tensor& grad, const at::Tensor& x,
                                                                    const at::Tensor& weight,
                                                                    const ConvolutionOptions& options,
                                                                    const Placement& placement,
                                                                    std::array<bool, 3> wanted) {
  std::tuple<at::Tensor, at::Tensor, at::Tensor> result;
  if (wanted[2]) std::get<2>(result) = grad.sum(parameter_axes(grad));
  if (!wanted[0] && !wanted[1]) return result;

  const int64_t dim = placement.dim;
  const Stencil s = stencil(options, weight, dim);
  const comm::Domain domain = comm::Domain::from_group_name(placement.group);
  const Interval own = placement.input.interval(domain.rank());
  // Both gradients come from whole windows of grad over this rank's rows of x: a pair of an x row and a grad row
  // belongs to the rank that owns the x row, so no pair is counted twice and none is left out.
  const std::vector<Interval> computed = computed_rows(placement.input, x, positions_per_row(x.sizes(), dim));
  const std::vector<Interval> needed = map_rows(computed, s, options.transposed ? rows::fine_rows : rows::coarse_rows);
  const at::Tensor window =
      gather(grad, placement.output, needed, placement, call_facts(weight, options, placement, "backward"));
  if (own.empty()) {
    if (wanted[0]) std::get<0>(result) = at::empty_like(x);
    if (wanted[1]) std::get<1>(result) = at::zeros_like(weight);
    return result;
  }
  const Interval covered = options.transposed ? computed[domain.rank()] : rows::fine_rows(s, needed[domain.rank()]);
  const at::Tensor input = embed(x, dim, own, covered.begin, covered.size());
  const ConvolutionOptions local = without_padding(options, dim);
  auto [grad_input, grad_weight, grad_bias] =
      at::convolution_backward(window, input, weight, std::nullopt, local.stride, local.padding, local.dilation,
                               local.transposed, local.output_padding, local.groups, {wanted[0], wanted[1], false});
  if (wanted[0]) std::get<0>(result) = crop(grad_input, dim, covered.begin, own);
  if (wanted[1]) std::get<1>(result) = grad_weight;
  return result;
}

}  // namespace graticule::ops

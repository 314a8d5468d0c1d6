#include "graticule/ops/convolution.hpp"

#include <ATen/ATen.h>

#include <utility>

#include "graticule/halo/exchange.hpp"
#include "graticule/halo/memory_format.hpp"
#include "graticule/halo/plans.hpp"
#include "ops/strip_plan.hpp"

namespace graticule::ops {
namespace {

using rows::Interval;
using rows::Partition;
using rows::Stencil;

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

halo::Gather start_gather(const at::Tensor& t, const Partition& partition, const std::vector<Interval>& wanted,
                          const Placement& placement, const comm::Domain& domain, const comm::Facts& facts) {
  auto plan = halo::find_plan(partition, wanted, rows::Boundary::zeros, domain.rank());
  return {t, std::move(plan), {placement.dim}, domain, placement.layer, facts};
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

std::vector<int64_t> parameter_axes(const at::Tensor& grad) {
  std::vector<int64_t> axes{0};
  for (int64_t d = 2; d < grad.dim(); ++d) axes.push_back(d);
  return axes;
}

// Options of the local convolution of the shard as it lies.
ConvolutionOptions fitted(ConvolutionOptions options, const rows::LocalFit& fit, int64_t dim) {
  options.padding[dim - 2] = fit.padding;
  options.output_padding[dim - 2] = fit.output_padding;
  return options;
}

// y, which the local options gave, in the memory format that the whole layer's options give.
at::Tensor in_format_of_whole(const at::Tensor& y, const at::Tensor& x, const at::Tensor& weight,
                              const ConvolutionOptions& whole, const ConvolutionOptions& local) {
  if (falls_back_on_contiguous(x, whole)) return y.contiguous();
  return falls_back_on_contiguous(x, local) ? y.contiguous(format_of(x, weight, whole)) : y;
}

at::Tensor run_forward(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       const ConvolutionOptions& o) {
  return at::convolution(x, weight, bias, o.stride, o.padding, o.dilation, o.transposed, o.output_padding, o.groups);
}

using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

Gradients run_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                       const ConvolutionOptions& o, std::array<bool, 3> wanted) {
  const std::vector<int64_t> bias_sizes{grad.size(1)};
  return at::convolution_backward(grad, x, weight, wanted[2] ? at::OptionalIntArrayRef(bias_sizes) : std::nullopt,
                                  o.stride, o.padding, o.dilation, o.transposed, o.output_padding, o.groups, wanted);
}

// What the steps of one call share.
struct Call {
  Call(const at::Tensor& x, const at::Tensor& w, const ConvolutionOptions& o, const Placement& p)
      : weight(w),
        options(o),
        placement(p),
        dim(p.dim),
        s(stencil(o, w, p.dim)),
        domain(comm::Domain::from_group_name(p.group)),
        rank(domain.rank()),
        input(p.input.interval(rank)),
        output(p.output.interval(rank)) {
    const bool keeps_bits = x.scalar_type() != at::kDouble;
    const auto out_sizes = output_sizes(x, w, o, dim, output.size());
    plan = find_strip_plan({s, o.transposed, p.input.offsets(), p.output.offsets(),
                            keeps_bits ? positions_per_row(x.sizes(), dim) : 0,
                            keeps_bits ? positions_per_row(out_sizes, dim) : 0});
  }

  [[nodiscard]] const rows::LocalFit& fit() const { return plan->fits[rank]; }

  const at::Tensor& weight;
  const ConvolutionOptions& options;
  const Placement& placement;
  int64_t dim;
  Stencil s;
  comm::Domain domain;
  int rank;
  Interval input, output;  // this rank's rows
  std::shared_ptr<const StripPlan> plan;
};

// The strips' source rows on their way.
struct StripSources {
  StripSources(const Call& c, const at::Tensor& t, const Partition& partition, const Strips& strips,
               const char* direction)
      : before(start_gather(t, partition, strips.before_needs, c.placement, c.domain,
                            call_facts(c.weight, c.options, c.placement, direction))),
        after(start_gather(t, partition, strips.after_needs, c.placement, c.domain,
                           call_facts(c.weight, c.options, c.placement, direction))) {}
  halo::Gather before;
  halo::Gather after;
};

// Output rows of the whole windows `window`, rows `needs` of the input, and the first of them: `strip.begin` or before.
std::pair<at::Tensor, int64_t> output_strip(const Call& c, const at::Tensor& window, Interval needs,
                                            const std::optional<at::Tensor>& bias, Interval strip) {
  const at::Tensor y = run_forward(window, c.weight, bias, without_padding(c.options, c.dim));
  // A transposed convolution of whole windows gives their whole span.
  return {y, c.options.transposed ? needs.begin * c.s.stride - c.s.padding : strip.begin};
}

// Writes rows `rows` of `strip`, which holds rows from `begin` on, over the same rows of `result`, rows `own`.
void overwrite(at::Tensor& result, Interval own, const at::Tensor& strip, int64_t begin, Interval rows, int64_t dim) {
  result.narrow(dim, rows.begin - own.begin, rows.size()).copy_(strip.narrow(dim, rows.begin - begin, rows.size()));
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
  const Call c(x, weight, options, placement);
  const Strips& strips = c.plan->forward;
  StripSources sources(c, x, placement.input, strips, "forward");
  if (c.output.empty()) {
    sources.before.finish();
    sources.after.finish();
    return convolution_shape(x, weight, options, placement, c.rank);
  }
  if (strips.whole[c.rank]) {
    const ConvolutionOptions local = without_padding(options, c.dim);
    const at::Tensor window = sources.before.finish();
    sources.after.finish();
    const auto [y, begin] = output_strip(c, window, strips.before_needs[c.rank], bias, strips.before[c.rank]);
    return in_format_of_whole(crop(y, c.dim, begin, c.output), x, weight, options, local);
  }
  const ConvolutionOptions local = fitted(options, c.fit(), c.dim);
  at::Tensor y = run_forward(x, weight, bias, local);
  const auto mend = [&](halo::Gather& source, Interval strip, Interval needs) {
    const at::Tensor window = source.finish();
    if (strip.empty()) return;
    const auto [rows, begin] = output_strip(c, window, needs, bias, strip);
    overwrite(y, c.output, rows, begin, strip, c.dim);
  };
  mend(sources.before, strips.before[c.rank], strips.before_needs[c.rank]);
  mend(sources.after, strips.after[c.rank], strips.after_needs[c.rank]);
  return in_format_of_whole(y, x, weight, options, local);
}

namespace {

// Gradients of this rank's rows of x from whole windows of grad: a pair of an x row and a grad row belongs to the rank
// that owns the x row, so no pair is counted twice and none is left out.
Gradients backward_of_windows(const Call& c, const at::Tensor& window, const at::Tensor& x, Interval computed,
                              Interval needs, std::array<bool, 3> wanted) {
  const Interval covered = c.options.transposed ? computed : rows::fine_rows(c.s, needs);
  const at::Tensor input = embed(x, c.dim, c.input, covered.begin, covered.size());
  Gradients result = run_backward(window, input, c.weight, without_padding(c.options, c.dim), wanted);
  if (wanted[0]) std::get<0>(result) = crop(std::get<0>(result), c.dim, covered.begin, c.input);
  return result;
}

// The gradient of rows of x from whole windows of grad, `window`, rows `needs`, and the first of them: `strip.begin` or
// before.
std::pair<at::Tensor, int64_t> input_gradient_strip(const Call& c, const at::Tensor& window, const at::Tensor& x,
                                                    Interval strip, Interval needs) {
  const Interval covered = c.options.transposed ? strip : rows::fine_rows(c.s, needs);
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes[c.dim] = covered.size();
  // Its values take no part in its own gradient.
  const at::Tensor input = at::empty(sizes, x.options().memory_format(halo::memory_format(x)));
  const auto gradients = run_backward(window, input, c.weight, without_padding(c.options, c.dim), {true, false, false});
  return {std::get<0>(gradients), covered.begin};
}

// What grad rows `outside` this rank's own, to be found in `window` (rows `needs`), add to the weight gradient: their
// pairs with this rank's rows of x.
at::Tensor outside_weight_gradient(const Call& c, const at::Tensor& window, Interval needs, Interval outside,
                                   const at::Tensor& x) {
  const std::array<bool, 3> weight_alone{false, true, false};
  const ConvolutionOptions local = without_padding(c.options, c.dim);
  if (!c.options.transposed) {
    const Interval fine = rows::fine_rows(c.s, outside);
    const Interval own = rows::intersect(fine, c.input);
    const at::Tensor grad = window.narrow(c.dim, outside.begin - needs.begin, outside.size());
    const at::Tensor rows = x.narrow(c.dim, own.begin - c.input.begin, own.size());
    return std::get<1>(
        run_backward(grad, embed(rows, c.dim, own, fine.begin, fine.size()), c.weight, local, weight_alone));
  }
  // Rows of x whose windows reach the outside rows, and their whole windows with zeros elsewhere.
  const Interval coarse = rows::intersect(rows::coarse_rows(c.s, outside), c.input);
  const Interval fine = rows::fine_rows(c.s, coarse);
  const Interval part = rows::intersect(fine, outside);
  const at::Tensor grad = window.narrow(c.dim, part.begin - needs.begin, part.size());
  const at::Tensor rows = x.narrow(c.dim, coarse.begin - c.input.begin, coarse.size());
  return std::get<1>(
      run_backward(embed(grad, c.dim, part, fine.begin, fine.size()), rows, c.weight, local, weight_alone));
}

// Grad rows outside this rank's own that its rows of x take part in, before and after.
rows::Seams outside_rows(const Call& c) {
  const Interval reach = c.options.transposed
                             ? rows::fine_rows(c.s, c.input)
                             : Interval{rows::ceil_div(c.input.begin + c.s.padding - c.s.span() + 1, c.s.stride),
                                        rows::floor_div(c.input.end - 1 + c.s.padding, c.s.stride) + 1};
  const Interval grid = rows::intersect(reach, {0, c.placement.output.rows()});
  return {rows::intersect(grid, {0, c.output.begin}), rows::intersect(grid, {c.output.end, c.placement.output.rows()})};
}

Gradients backward_in_place(const Call& c, StripSources& sources, const at::Tensor& grad, const at::Tensor& x,
                            std::array<bool, 3> wanted) {
  Gradients result = run_backward(grad, x, c.weight, fitted(c.options, c.fit(), c.dim), wanted);
  auto& [grad_x, grad_weight, grad_bias] = result;
  const Strips& strips = c.plan->backward;
  const rows::Seams outside = outside_rows(c);
  const auto mend = [&](halo::Gather& source, Interval strip, Interval needs, Interval beyond) {
    const at::Tensor window = source.finish();
    if (strip.empty()) return;
    if (wanted[0]) {
      const auto [rows, begin] = input_gradient_strip(c, window, x, strip, needs);
      overwrite(grad_x, c.input, rows, begin, strip, c.dim);
    }
    if (wanted[1] && !beyond.empty()) grad_weight.add_(outside_weight_gradient(c, window, needs, beyond, x));
  };
  mend(sources.before, strips.before[c.rank], strips.before_needs[c.rank], outside.before);
  mend(sources.after, strips.after[c.rank], strips.after_needs[c.rank], outside.after);
  return result;
}

}  // namespace

Gradients convolution_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                               const ConvolutionOptions& options, const Placement& placement,
                               std::array<bool, 3> wanted) {
  if (!wanted[0] && !wanted[1]) {
    return {at::Tensor(), at::Tensor(), wanted[2] ? grad.sum(parameter_axes(grad)) : at::Tensor()};
  }
  const Call c(x, weight, options, placement);
  const Strips& strips = c.plan->backward;
  StripSources sources(c, grad, placement.output, strips, "backward");
  if (!strips.whole[c.rank]) return backward_in_place(c, sources, grad, x, wanted);

  const at::Tensor window = sources.before.finish();
  sources.after.finish();
  Gradients result;
  if (!c.input.empty()) {
    result = backward_of_windows(c, window, x, strips.before[c.rank], strips.before_needs[c.rank],
                                 {wanted[0], wanted[1], false});
  } else {
    if (wanted[0]) std::get<0>(result) = at::empty_like(x);
    if (wanted[1]) std::get<1>(result) = at::zeros_like(weight);
  }
  if (wanted[2]) std::get<2>(result) = grad.sum(parameter_axes(grad));
  return result;
}

}  // namespace graticule::ops

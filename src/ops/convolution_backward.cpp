// Gradients of a cut convolution. A weight's gradient is a sum over pairs of an x row and a grad row. Where every
// rank's backward runs in place, a pair belongs to the rank that owns the x row, or stands for it beyond the grid: x
// alone need be saved. Where one takes whole windows, and the convolution is not transposed, a pair belongs to the rank
// that owns the grad row, and the rows of x that are not its own have been kept: the plan says which, the same on every
// rank, so no pair is counted twice and none is left out.
#include <ATen/ATen.h>

#include <utility>

#include "graticule/comm/exchange.hpp"
#include "graticule/halo/memory_format.hpp"
#include "graticule/ops/convolution.hpp"
#include "halo/row_copy.hpp"
#include "ops/call_trace.hpp"
#include "ops/convolution_call.hpp"

namespace graticule::ops {
namespace {

using rows::Interval;

std::vector<int64_t> parameter_axes(const at::Tensor& grad) {
  std::vector<int64_t> axes{0};
  for (int64_t d = 2; d < grad.dim(); ++d) axes.push_back(d);
  return axes;
}

// Rows `own` of x, which is all of it, among `count` rows from `begin` on, zeros elsewhere.
at::Tensor embed(const at::Tensor& x, int64_t dim, Interval own, int64_t begin, int64_t count) {
  if (begin == own.begin && count == own.size()) return x;
  at::Tensor result = halo::empty_rows(x, dim, count);
  const int64_t first = own.begin - begin;
  halo::clear_rows(result, 0, first, dim);
  halo::copy_rows(x, 0, result, first, own.size(), dim);
  halo::clear_rows(result, first + own.size(), count - first - own.size(), dim);
  return result;
}

HeldRows own_rows(const ConvolutionCall& c) { return {c.dim, c.input, c.placement.input.rows()}; }

// Rows of the grid beyond its ends that this rank stands for.
rows::Seams rows_beyond_grid(const ConvolutionCall& c) {
  return {{c.plan->extended.begin, c.input.begin}, {c.input.end, c.plan->extended.end}};
}

// Gradients of rows `beyond` an end of the grid, in `strip` from row `begin` on, added to the rows that they come from.
void fold_beyond_grid(const ConvolutionCall& c, at::Tensor& grad_x, const at::Tensor& strip, int64_t begin,
                      Interval beyond) {
  if (beyond.empty()) return;
  fold_rows_into(grad_x, own_rows(c), strip.narrow(c.dim, beyond.begin - begin, beyond.size()), beyond,
                 c.options.row_boundary);
}

// The gradient of rows of x from whole windows of grad, `window`, rows `needs`, and the first of them: `strip.begin` or
// before.
std::pair<at::Tensor, int64_t> input_gradient_strip(const ConvolutionCall& c, const at::Tensor& window,
                                                    const at::Tensor& x, Interval strip, Interval needs) {
  const Interval covered = c.options.transposed ? strip : rows::fine_rows(c.s, needs);
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes[c.dim] = covered.size();
  for (int64_t d = 2; d < x.dim() && c.bordered_across(); ++d) {
    if (d != c.dim) sizes[d] += 2 * c.options.padding[d - 2];
  }
  // Its values take no part in its own gradient.
  const auto gradients =
      run_convolution_backward(window, halo::empty_with(x, sizes), c.weight, c.plan->windows, {true, false, false});
  return {c.without_border(std::get<0>(gradients)), covered.begin};
}

// Gradients of x and weight from whole windows of grad. The weight's is that of a transposed convolution: of another
// one it goes by output rows.
ConvolutionGradients backward_of_windows(const ConvolutionCall& c, const at::Tensor& window, const at::Tensor& x,
                                         std::array<bool, 3> wanted) {
  const Strips& strips = c.plan->backward;
  ConvolutionGradients result;
  std::pair<at::Tensor, int64_t> strip;
  if (wanted[1]) {
    const at::Tensor input = embed(x, c.dim, c.input, strips.before.begin, strips.before.size());
    result = run_convolution_backward(window, input, c.weight, c.plan->windows, wanted);
    strip = {std::get<0>(result), strips.before.begin};
  } else {
    strip = input_gradient_strip(c, window, x, strips.before, strips.before_needs);
  }
  if (!wanted[0]) return result;
  const auto& [rows, begin] = strip;
  at::Tensor grad_x = crop(rows, c.dim, begin, c.input);
  const rows::Seams beyond = rows_beyond_grid(c);
  for (const Interval end : {beyond.before, beyond.after}) fold_beyond_grid(c, grad_x, rows, begin, end);
  std::get<0>(result) = c.bordered_across() ? grad_x.contiguous(halo::memory_format(x)) : grad_x;
  return result;
}

// The rows of x that this rank's windows cover, from its own and those that forward kept.
at::Tensor rows_of_windows(const ConvolutionCall& c, const at::Tensor& x, const ConvolutionHalo& halo) {
  const Interval needed = rows::fine_rows(c.s, c.output);
  if (needed == c.input) return x;
  at::Tensor result = halo::empty_rows(x, c.dim, needed.size());
  int64_t filled = needed.begin;
  // What is kept nowhere is zeros beyond the grid, or in no window.
  const auto clear_to = [&](int64_t row) {
    if (row > filled) halo::clear_rows(result, filled - needed.begin, row - filled, c.dim);
  };
  const auto put = [&](const at::Tensor& rows, int64_t first, Interval part) {
    if (part.empty()) return;
    clear_to(part.begin);
    halo::copy_rows(rows, part.begin - first, result, part.begin - needed.begin, part.size(), c.dim);
    filled = part.end;
  };
  const rows::Seams& kept = c.plan->kept;
  put(halo.before, kept.before.begin, kept.before);
  put(x, c.input.begin, rows::intersect(needed, c.input));
  put(halo.after, kept.after.begin, kept.after);
  clear_to(needed.end);
  return result;
}

// What this rank's own rows of grad give to the gradients of weight and bias.
ConvolutionGradients parameters_by_output_rows(const ConvolutionCall& c, const at::Tensor& grad, const at::Tensor& x,
                                               const ConvolutionHalo& halo, bool bias) {
  if (c.output.empty()) {
    return {at::Tensor(), at::zeros_like(c.weight), bias ? grad.sum(parameter_axes(grad)) : at::Tensor()};
  }
  return run_convolution_backward(grad, c.bordered(rows_of_windows(c, x, halo)), c.weight, c.plan->windows,
                                  {false, true, bias});
}

// Rows of a tensor that holds rows from `begin` on.
struct RowsFrom {
  const at::Tensor& tensor;
  int64_t begin;

  [[nodiscard]] at::Tensor of(int64_t dim, Interval rows) const {
    return tensor.narrow(dim, rows.begin - begin, rows.size());
  }
};

// Adds what pairs of rows give to the weight's gradient: for each coarse row, the part of the kernel that meets fine
// rows. No row is paired with one of zeros: what is not finite spreads no further than it does uncut.
void add_pairs(const ConvolutionCall& c, at::Tensor& grad_weight, const RowPairs& pairs, const RowsFrom& coarse,
               const RowsFrom& fine) {
  for (int64_t row = pairs.coarse.begin; row < pairs.coarse.end; ++row) {
    const Interval taps = rows::taps_within(c.s, row, pairs.fine);
    if (taps.empty()) continue;
    const int64_t window = row * c.s.stride - c.s.padding;
    const at::Tensor coarse_rows = coarse.of(c.dim, {row, row + 1});
    const at::Tensor fine_rows =
        fine.of(c.dim, {window + taps.begin * c.s.dilation, window + (taps.end - 1) * c.s.dilation + 1});
    const at::Tensor kernel = c.weight.narrow(c.dim, taps.begin, taps.size());
    const auto gradients = c.options.transposed ? run_convolution_backward(fine_rows, coarse_rows, kernel,
                                                                           c.plan->windows, {false, true, false})
                                                : run_convolution_backward(coarse_rows, c.bordered(fine_rows), kernel,
                                                                           c.plan->windows, {false, true, false});
    grad_weight.narrow(c.dim, taps.begin, taps.size()).add_(std::get<1>(gradients));
  }
}

// Pairs of this rank's rows of x with others' rows of grad, to be found in `window`, which holds rows from `begin` on.
void add_outside_pairs(const ConvolutionCall& c, at::Tensor& grad_weight, const RowPairs& pairs,
                       const at::Tensor& window, int64_t begin, const at::Tensor& x) {
  const RowsFrom own{x, c.input.begin};
  const RowsFrom others{window, begin};
  const bool transposed = c.options.transposed;
  add_pairs(c, grad_weight, pairs, transposed ? own : others, transposed ? others : own);
}

// Pairs of rows `beyond` the grid's end, which come from own ones, with rows of grad.
void add_border_pairs(const ConvolutionCall& c, at::Tensor& grad_weight, Interval beyond, const at::Tensor& window,
                      Interval needs, const at::Tensor& x) {
  if (beyond.empty()) return;
  const Interval grid{0, c.placement.output.rows()};
  const Interval touching = rows::intersect(rows::intersect(rows::coarse_rows(c.s, beyond), needs), grid);
  const at::Tensor rows = extended_rows(x, own_rows(c), beyond, c.options.row_boundary);
  add_pairs(c, grad_weight, {touching, beyond}, {window, needs.begin}, {rows, beyond.begin});
}

// What the columns `beyond` an edge of dimension d add to both gradients, from the columns `touching` of grad.
// Dimensions after d are taken with their border, those before d without: every place beyond an edge counts once.
void add_columns(const ConvolutionCall& c, ConvolutionGradients& result, const at::Tensor& grad, const at::Tensor& x,
                 int64_t d, Interval beyond, Interval touching, std::array<bool, 3> wanted) {
  const rows::Stencil s = stencil(c.options, c.weight, d);
  const Interval fine = rows::fine_rows(s, touching);
  const Interval part = rows::intersect(fine, beyond);
  if (touching.empty() || part.empty()) return;
  ConvolutionOptions options = c.plan->local;
  for (int64_t other = d; other < x.dim(); ++other) {
    if (other != c.dim) options.padding[other - 2] = 0;
  }
  const at::Tensor columns = c.bordered(extended_rows(x, c.columns(d), part, c.options.across_boundary), d + 1);
  const at::Tensor slab = grad.narrow(d, touching.begin, touching.size()).contiguous(halo::memory_format(grad));
  const auto [grad_columns, grad_weight, none] = run_convolution_backward(
      slab, embed(columns, d, part, fine.begin, fine.size()), c.weight, options, {wanted[0], wanted[1], false});
  if (wanted[1]) std::get<1>(result).add_(grad_weight);
  if (!wanted[0]) return;
  const at::Tensor folded = c.without_border(grad_columns.narrow(d, part.begin - fine.begin, part.size()), d + 1);
  fold_rows_into(std::get<0>(result), c.columns(d), folded, part, c.options.across_boundary);
}

void add_border_across(const ConvolutionCall& c, ConvolutionGradients& result, const at::Tensor& grad,
                       const at::Tensor& x, std::array<bool, 3> wanted) {
  if (!c.bordered_across()) return;
  for (int64_t d = 2; d < x.dim(); ++d) {
    if (d == c.dim || c.options.padding[d - 2] == 0) continue;
    const rows::Seams seams = c.edge_columns(d);
    const Interval padded = c.padded_columns(d);
    add_columns(c, result, grad, x, d, {padded.begin, 0}, seams.before, wanted);
    add_columns(c, result, grad, x, d, {x.size(d), padded.end}, seams.after, wanted);
  }
}

ConvolutionGradients backward_in_place(const ConvolutionCall& c, halo::Gather& gather, const at::Tensor& grad,
                                       const at::Tensor& x, std::array<bool, 3> wanted) {
  gather.keep_moving();
  // x's gradient is done before memory goes into the others. Columns beyond the edges give to both at once.
  const bool apart = wanted[0] && !c.bordered_across();
  const std::array<bool, 3> first = apart ? std::array<bool, 3>{true, false, false} : wanted;
  ConvolutionGradients result = run_convolution_backward(grad, x, c.weight, c.plan->local, first);
  add_border_across(c, result, grad, x, first);
  auto& [grad_x, grad_weight, grad_bias] = result;
  const Strips& strips = c.plan->backward;
  const rows::Seams beyond = rows_beyond_grid(c);
  const std::vector<at::Tensor> windows = gather.finish_parts();
  struct End {
    const at::Tensor& window;
    Interval strip, needs, beyond;
    const RowPairs& outside;
  };
  const std::array<End, 2> ends{
      End{windows[0], strips.before, strips.before_needs, beyond.before, c.plan->outside_before},
      End{windows[1], strips.after, strips.after_needs, beyond.after, c.plan->outside_after}};
  if (wanted[0]) {
    std::array<std::pair<at::Tensor, int64_t>, 2> mended;
    for (size_t i = 0; i < ends.size(); ++i) {
      const auto& [window, strip, needs, beyond_end, outside] = ends[i];
      if (strip.empty()) continue;
      mended[i] = input_gradient_strip(c, window, x, strip, needs);
      overwrite(grad_x, c.input, mended[i].first, mended[i].second, rows::intersect(strip, c.input), c.dim);
    }
    // After both ends are written: what lies beyond one end may come from rows near the other.
    for (size_t i = 0; i < ends.size(); ++i) {
      fold_beyond_grid(c, grad_x, mended[i].first, mended[i].second, ends[i].beyond);
    }
  }
  if (apart && (wanted[1] || wanted[2])) {
    std::tie(std::ignore, grad_weight, grad_bias) =
        run_convolution_backward(grad, x, c.weight, c.plan->local, {false, wanted[1], wanted[2]});
  }
  if (!wanted[1]) return result;
  // In a half type what a row adds would be lost beside the sum.
  const at::ScalarType type = grad_weight.scalar_type();
  at::Tensor sum = at::isReducedFloatingType(type) ? grad_weight.to(at::kFloat) : grad_weight;
  for (const auto& [window, strip, needs, beyond_end, outside] : ends) {
    if (strip.empty()) continue;
    add_outside_pairs(c, sum, outside, window, needs.begin, x);
    add_border_pairs(c, sum, beyond_end, window, needs, x);
  }
  grad_weight = sum.to(type);
  return result;
}

// Of another call: what travels is known by the output's sizes.
void check_gradient(const ConvolutionCall& c, const at::Tensor& grad) {
  if (grad.sizes() == c.out_sizes && grad.scalar_type() == c.weight.scalar_type()) return;
  const std::string message =
      c10::str(c.placement.layer, ": expected an output's gradient of ", c10::IntArrayRef(c.out_sizes), " of ",
               c.weight.scalar_type(), " on rank ", c.rank, ", got ", grad.sizes(), " of ", grad.scalar_type());
  comm::poison(c.domain, message);
  TORCH_CHECK_VALUE(false, message);
}

// Another call's halo, or none: an error, and one on all ranks.
void check_halo(const ConvolutionCall& c, const at::Tensor& x, const ConvolutionHalo& halo) {
  const auto check = [&](const at::Tensor& rows, Interval kept, const char* which) {
    std::vector<int64_t> expected = x.sizes().vec();
    expected[c.dim] = kept.size();
    if (rows.defined() && rows.sizes() == expected) return;
    const std::string message =
        c10::str(c.placement.layer, ": expected the rows ", which, " rank ", c.rank, "'s own, ",
                 c10::IntArrayRef(expected), ", got ", rows.defined() ? c10::str(rows.sizes()) : "none");
    comm::poison(c.domain, message);
    TORCH_CHECK_VALUE(false, message);
  };
  check(halo.before, c.plan->kept.before, "before");
  check(halo.after, c.plan->kept.after, "after");
}

}  // namespace

ConvolutionGradients convolution_backward(const at::Tensor& grad, const at::Tensor& x, const ConvolutionHalo& halo,
                                          const at::Tensor& weight, const ConvolutionArguments& arguments,
                                          std::array<bool, 3> wanted) {
  const ConvolutionCall c(x, weight, arguments);
  check_gradient(c, grad);
  const Strips& strips = c.plan->backward;
  const CallTrace trace(c.placement.layer, "backward", strips.reason);
  const bool by_output_rows = wanted[1] && c.plan->weight_by_output_rows;
  if (by_output_rows) check_halo(c, x, halo);
  halo::Gather gather = c.start(grad, strips);
  ConvolutionGradients parameters;
  if (by_output_rows) {
    // Needs nothing of what travels.
    gather.keep_moving();
    parameters = parameters_by_output_rows(c, grad, x, halo, wanted[2]);
    wanted = {wanted[0], false, false};
  }
  ConvolutionGradients result;
  if (!wanted[0] && !wanted[1]) {
    // Another rank's x may need a gradient, and with it these rows.
    gather.finish_parts();
    if (wanted[2]) std::get<2>(result) = grad.sum(parameter_axes(grad));
  } else if (!strips.whole) {
    result = backward_in_place(c, gather, grad, x, wanted);
  } else {
    const at::Tensor window = gather.finish_parts()[0];
    if (!c.input.empty()) {
      result = backward_of_windows(c, window, x, {wanted[0], wanted[1], false});
    } else {
      if (wanted[0]) std::get<0>(result) = at::empty_like(x);
      if (wanted[1]) std::get<1>(result) = at::zeros_like(weight);
    }
    if (wanted[2]) std::get<2>(result) = grad.sum(parameter_axes(grad));
  }
  if (!by_output_rows) return result;
  std::get<0>(parameters) = std::get<0>(result);
  return parameters;
}

ConvolutionGradients convolution_backward(const at::Tensor& grad, const at::Tensor& x, const ConvolutionHalo& halo,
                                          const at::Tensor& weight, const ConvolutionOptions& options,
                                          const Placement& placement, std::array<bool, 3> wanted) {
  return convolution_backward(grad, x, halo, weight, *find_arguments(options, placement), wanted);
}

}  // namespace graticule::ops

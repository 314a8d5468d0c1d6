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
#include "ops/convolution_call.hpp"

namespace graticule::ops {
namespace {

using rows::Interval;

std::vector<int64_t> parameter_axes(const at::Tensor& grad) {
  std::vector<int64_t> axes{0};
  for (int64_t d = 2; d < grad.dim(); ++d) axes.push_back(d);
  return axes;
}

at::Tensor empty_with(const at::Tensor& like, std::vector<int64_t> sizes) {
  return at::empty(sizes, like.options().memory_format(halo::memory_format(like)));
}

// Rows `own` of x, which is all of it, among `count` rows from `begin` on, zeros elsewhere.
at::Tensor embed(const at::Tensor& x, int64_t dim, Interval own, int64_t begin, int64_t count) {
  if (begin == own.begin && count == own.size()) return x;
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes[dim] = count;
  at::Tensor result = empty_with(x, sizes);
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
  const auto gradients = run_convolution_backward(window, empty_with(x, sizes), c.weight,
                                                  window_options(c.options, c.dim), {true, false, false});
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
    result = run_convolution_backward(window, input, c.weight, window_options(c.options, c.dim), wanted);
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
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes[c.dim] = needed.size();
  at::Tensor result = empty_with(x, sizes);
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
  return run_convolution_backward(grad, c.bordered(rows_of_windows(c, x, halo)), c.weight,
                                  window_options(c.options, c.dim), {false, true, bias});
}

// What grad rows `outside` this rank's own, to be found in `window` (rows `needs`), add to the weight gradient: their
// pairs with this rank's rows of x.
at::Tensor outside_weight_gradient(const ConvolutionCall& c, const at::Tensor& window, Interval needs, Interval outside,
                                   const at::Tensor& x) {
  const std::array<bool, 3> weight_alone{false, true, false};
  const ConvolutionOptions local = window_options(c.options, c.dim);
  if (!c.options.transposed) {
    const Interval fine = rows::fine_rows(c.s, outside);
    const Interval own = rows::intersect(fine, c.input);
    const at::Tensor grad = window.narrow(c.dim, outside.begin - needs.begin, outside.size());
    const at::Tensor rows = c.bordered(x.narrow(c.dim, own.begin - c.input.begin, own.size()));
    const at::Tensor input = embed(rows, c.dim, own, fine.begin, fine.size());
    return std::get<1>(run_convolution_backward(grad, input, c.weight, local, weight_alone));
  }
  // Rows of x whose windows reach the outside rows, and their whole windows with zeros elsewhere.
  const Interval coarse = rows::intersect(rows::coarse_rows(c.s, outside), c.input);
  const Interval fine = rows::fine_rows(c.s, coarse);
  const Interval part = rows::intersect(fine, outside);
  const at::Tensor grad = window.narrow(c.dim, part.begin - needs.begin, part.size());
  const at::Tensor rows = x.narrow(c.dim, coarse.begin - c.input.begin, coarse.size());
  return std::get<1>(
      run_convolution_backward(embed(grad, c.dim, part, fine.begin, fine.size()), rows, c.weight, local, weight_alone));
}

// What rows `beyond` the grid's end add to the weight gradient; `window` holds grad rows `needs`, among them all whose
// windows reach those rows.
at::Tensor border_weight_gradient(const ConvolutionCall& c, const at::Tensor& window, Interval needs, Interval beyond,
                                  const at::Tensor& x) {
  const Interval touching = rows::intersect(rows::coarse_rows(c.s, beyond), needs);
  const Interval fine = rows::fine_rows(c.s, touching);
  const Interval part = rows::intersect(fine, beyond);
  const at::Tensor rows = c.bordered(extended_rows(x, own_rows(c), part, c.options.row_boundary));
  const at::Tensor grad = window.narrow(c.dim, touching.begin - needs.begin, touching.size());
  return std::get<1>(run_convolution_backward(grad, embed(rows, c.dim, part, fine.begin, fine.size()), c.weight,
                                              window_options(c.options, c.dim), {false, true, false}));
}

// Grad rows outside this rank's own that its rows of x take part in, before and after.
rows::Seams outside_rows(const ConvolutionCall& c) {
  const Interval reach = c.options.transposed
                             ? rows::fine_rows(c.s, c.input)
                             : Interval{rows::ceil_div(c.input.begin + c.s.padding - c.s.span() + 1, c.s.stride),
                                        rows::floor_div(c.input.end - 1 + c.s.padding, c.s.stride) + 1};
  const Interval grid = rows::intersect(reach, {0, c.placement.output.rows()});
  return {rows::intersect(grid, {0, c.output.begin}), rows::intersect(grid, {c.output.end, c.placement.output.rows()})};
}

// What the columns `beyond` an edge of dimension d add to both gradients, from the columns `touching` of grad.
// Dimensions after d are taken with their border, those before d without: every place beyond an edge counts once.
void add_columns(const ConvolutionCall& c, ConvolutionGradients& result, const at::Tensor& grad, const at::Tensor& x,
                 int64_t d, Interval beyond, Interval touching, std::array<bool, 3> wanted) {
  const rows::Stencil s = stencil(c.options, c.weight, d);
  const Interval fine = rows::fine_rows(s, touching);
  const Interval part = rows::intersect(fine, beyond);
  if (touching.empty() || part.empty()) return;
  ConvolutionOptions options = fitted_options(c.options, c.plan->fit, c.dim);
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
  ConvolutionGradients result =
      run_convolution_backward(grad, x, c.weight, fitted_options(c.options, c.plan->fit, c.dim), wanted);
  add_border_across(c, result, grad, x, wanted);
  auto& [grad_x, grad_weight, grad_bias] = result;
  const Strips& strips = c.plan->backward;
  const rows::Seams outside = outside_rows(c);
  const rows::Seams beyond = rows_beyond_grid(c);
  const std::vector<at::Tensor> windows = gather.finish_parts();
  struct End {
    const at::Tensor& window;
    Interval strip, needs, outside, beyond;
  };
  const std::array<End, 2> ends{End{windows[0], strips.before, strips.before_needs, outside.before, beyond.before},
                                End{windows[1], strips.after, strips.after_needs, outside.after, beyond.after}};
  std::array<std::pair<at::Tensor, int64_t>, 2> mended;
  for (size_t i = 0; i < ends.size(); ++i) {
    const auto& [window, strip, needs, outside_end, beyond_end] = ends[i];
    if (strip.empty()) continue;
    if (wanted[0]) {
      mended[i] = input_gradient_strip(c, window, x, strip, needs);
      overwrite(grad_x, c.input, mended[i].first, mended[i].second, rows::intersect(strip, c.input), c.dim);
    }
    if (!wanted[1]) continue;
    if (!outside_end.empty()) grad_weight.add_(outside_weight_gradient(c, window, needs, outside_end, x));
    if (!beyond_end.empty()) grad_weight.add_(border_weight_gradient(c, window, needs, beyond_end, x));
  }
  // After both ends are written: what lies beyond one end may come from rows near the other.
  for (size_t i = 0; i < ends.size() && wanted[0]; ++i) {
    fold_beyond_grid(c, grad_x, mended[i].first, mended[i].second, ends[i].beyond);
  }
  return result;
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
                                          const at::Tensor& weight, const ConvolutionOptions& options,
                                          const Placement& placement, std::array<bool, 3> wanted) {
  if (!wanted[0] && !wanted[1]) {
    return {at::Tensor(), at::Tensor(), wanted[2] ? grad.sum(parameter_axes(grad)) : at::Tensor()};
  }
  const ConvolutionCall c(x, weight, options, placement);
  const Strips& strips = c.plan->backward;
  const ConvolutionTrace trace(placement, "backward", strips);
  const bool by_output_rows = wanted[1] && c.plan->weight_by_output_rows;
  if (by_output_rows) check_halo(c, x, halo);
  halo::Gather gather = c.start(grad, strips, "backward");
  ConvolutionGradients parameters;
  if (by_output_rows) {
    // Needs nothing of what travels.
    gather.keep_moving();
    parameters = parameters_by_output_rows(c, grad, x, halo, wanted[2]);
    wanted = {wanted[0], false, false};
  }
  ConvolutionGradients result;
  if (!wanted[0] && !wanted[1]) {
    gather.finish_parts();
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

}  // namespace graticule::ops

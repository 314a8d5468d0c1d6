#include "ops/strip_plan.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "graticule/halo/exchange.hpp"
#include "halo/plan_cache.hpp"
#include "ops/convolution_path.hpp"
#include "ops/local_convolution.hpp"

namespace graticule::ops {
namespace {

using rows::Boundary;
using rows::Interval;
using rows::LocalFit;
using rows::Partition;
using rows::Seams;
using rows::Stencil;

// A strip of few positions makes the local kernel choose another blocking, which changes the last bits. Such a strip is
// computed with the rows beside it, and those are thrown away. float64 has no bits to keep: there kernels block by
// size.
constexpr int64_t least_positions = 256;

// What a copied value and a call of a kernel cost, in the multiplications and additions that a core does meanwhile.
// Rough: it decides between ways that are both right. Kernels lay out the weight anew in every call. Copies of backward
// were measured to take longer than those of forward: they go into new memory, in the wake of kernels that fill caches.
constexpr double flops_of_copied_value = 100;
constexpr double slower_in_backward = 2;
constexpr double flops_of_call = 1e6;

// Channels that kernels compute at once: a group of fewer takes as long.
constexpr int64_t channels_at_once = 16;

// A shard of fewer rows than this many times its strips is small, and the local kernel would block it otherwise than
// the uncut tensor.
constexpr int64_t least_rows_to_strips = 8;

std::atomic<ConvolutionPath> forced_path{ConvolutionPath::automatic};

// The values of one row of one channel.
int64_t positions_per_row(at::IntArrayRef sizes, int64_t dim) {
  int64_t positions = 1;
  for (int64_t d = 2; d < static_cast<int64_t>(sizes.size()); ++d) {
    if (d != dim) positions *= sizes[d];
  }
  return positions;
}

// Channels of a group that are computed, for each that there is.
double whole_vectors(int64_t channels) {
  if (channels == 0) return 1;
  return static_cast<double>(rows::ceil_div(channels, channels_at_once) * channels_at_once) /
         static_cast<double>(channels);
}

int64_t least_rows(int64_t positions) { return positions < 1 ? 1 : rows::ceil_div(least_positions, positions); }

// `strip` with rows beside it, as many as bits need and `limits` have.
Interval widened(Interval strip, Interval limits, int64_t positions) {
  const int64_t missing = least_rows(positions) - strip.size();
  if (strip.empty() || missing <= 0) return strip;
  Interval wide{std::max(strip.begin - (missing + 1) / 2, limits.begin), 0};
  wide.end = std::min(limits.end, std::max(strip.end, wide.begin + strip.size() + missing));
  wide.begin = std::max(limits.begin, std::min(wide.begin, wide.end - strip.size() - missing));
  return wide;
}

// A result and what it is made of, on one rank.
struct Direction {
  Interval target;
  Interval source;
  Interval target_grid;  // all rows of the target
  int64_t source_rows = 0;
  bool to_coarse = true;
  int64_t positions = 0;  // of a row of the target, 0 where bits need not be kept
  double flops_of_coarse_row = 0;
  double flops_of_call = 0;    // beside its rows
  double flops_of_copies = 0;  // of whole windows
  double flops_of_pairs = 0;   // backward: what strips take beside, for the weight's gradient
};

Interval needs(const Stencil& s, const Direction& d, Interval target) {
  return d.to_coarse ? rows::fine_rows(s, target) : rows::coarse_rows(s, target);
}

// A kernel's work goes by coarse rows: those of the windows it is given, whatever part of them is wanted. Whole windows
// of other ranks' rows are given to one pass alone: a weight's gradient from whole windows goes by output rows.
bool strips_are_better(const Stencil& s, const Direction& d, const Seams& seams) {
  if ((seams.before.size() + seams.after.size()) * least_rows_to_strips > d.target.size()) return false;
  const auto coarse_rows = [&](Interval target) {
    return static_cast<double>(d.to_coarse ? target.size() : needs(s, d, target).size());
  };
  const auto strip_cost = [&](Interval strip) {
    return strip.empty() ? 0.0 : coarse_rows(strip) * d.flops_of_coarse_row + d.flops_of_call;
  };
  const auto own = static_cast<double>(d.to_coarse ? d.target.size() : d.source.size());
  const double more_rows = std::max(0.0, coarse_rows(d.target) - own);
  return strip_cost(seams.before) + strip_cost(seams.after) + d.flops_of_pairs <=
         d.flops_of_copies + more_rows * d.flops_of_coarse_row;
}

Strips make_strips(const Stencil& s, const Direction& d, const Seams& found, const LocalFit& fit) {
  const int64_t least = least_rows(d.positions);
  Seams seams = found;
  if (!seams.before.empty()) seams.before.end = std::max(seams.before.end, d.target.begin + least);
  if (!seams.after.empty()) seams.after.begin = std::min(seams.after.begin, d.target.end - least);
  const ConvolutionPath path = forced_convolution_path();
  Strips strips;
  strips.reason = "in place";
  if (d.target.empty() || d.source.empty()) {
    strips.reason = "whole windows: a shard of no rows";
  } else if (!fit.fits) {
    strips.reason = "whole windows: they do not line up with the shard";
  } else if (d.target.size() < least) {
    strips.reason = "whole windows: the shard is small";
  } else if (path == ConvolutionPath::whole_windows) {
    strips.reason = "whole windows: as asked for";
  } else if (path != ConvolutionPath::in_place && !strips_are_better(s, d, seams)) {
    strips.reason = "whole windows: a copy of the shard costs less than strips";
  } else {
    strips.before = seams.before;
    strips.after = seams.after;
  }
  strips.whole = strips.reason[0] != 'i';
  if (strips.whole) {
    strips.before = widened(d.target, d.target_grid, d.positions);
    strips.after = {d.target.end, d.target.end};
  }
  strips.before_needs = needs(s, d, strips.before);
  strips.after_needs = needs(s, d, strips.after);
  return strips;
}

// The facts of one call, ready to plan.
struct ConvolutionFacts {
  Stencil s;
  bool transposed;
  Boundary boundary;
  Partition input;
  Partition output;
  int64_t output_padding;  // of the whole grid
  bool keeps_bits;
  int64_t in_positions;
  int64_t out_positions;
  double in_row_values;  // of all samples and channels
  double out_row_values;
  double flops_of_coarse_row;
  double weight_values;

  // Windows go round the grid, forward and backward: rows beyond either end are those of the other.
  [[nodiscard]] bool round() const { return boundary == Boundary::circular; }
  [[nodiscard]] double flops_of_a_call() const { return flops_of_call + flops_of_copied_value * weight_values; }
  [[nodiscard]] Interval grid() const { return extended_grid(s, input.rows(), output.rows(), boundary); }
  [[nodiscard]] Interval extended(int rank) const {
    Interval own = input.interval(rank);
    if (rank == 0) own.begin = grid().begin;
    if (rank == input.ranks() - 1) own.end = grid().end;
    return own;
  }
  [[nodiscard]] LocalFit fit(int rank) const {
    const Interval from = input.interval(rank);
    const Interval to = output.interval(rank);
    return transposed ? rows::fit_transposed(s, from, to, output_padding) : rows::fit_convolution(s, from, to);
  }
  [[nodiscard]] double copies(int rank, double of_input, double of_output) const {
    return flops_of_copied_value * (of_input * in_row_values * static_cast<double>(input.interval(rank).size()) +
                                    of_output * out_row_values * static_cast<double>(output.interval(rank).size()));
  }
  // Rows of the output's gradient that this rank's input rows take part in.
  [[nodiscard]] Interval reached(int rank) const {
    const Interval own = input.interval(rank);
    const Interval reach = transposed ? rows::fine_rows(s, own)
                                      : Interval{rows::ceil_div(own.begin + s.padding - s.span() + 1, s.stride),
                                                 rows::floor_div(own.end - 1 + s.padding, s.stride) + 1};
    return round() ? reach : rows::intersect(reach, {0, output.rows()});
  }
  [[nodiscard]] RowPairs pairs(int rank, Interval outside) const {
    const Interval own = input.interval(rank);
    if (!transposed) return {outside, own};
    return {rows::intersect(rows::coarse_rows(s, outside), own), outside};
  }
  [[nodiscard]] RowPairs pairs_before(int rank) const {
    const Interval reach = reached(rank);
    return pairs(rank, {reach.begin, std::min(reach.end, output.interval(rank).begin)});
  }
  [[nodiscard]] RowPairs pairs_after(int rank) const {
    const Interval reach = reached(rank);
    return pairs(rank, {std::max(reach.begin, output.interval(rank).end), reach.end});
  }
  // A call for each coarse row, with as much of the kernel as meets fine rows.
  [[nodiscard]] double flops_of_pairs(const RowPairs& pairs) const {
    double flops = 0;
    for (int64_t row = pairs.coarse.begin; row < pairs.coarse.end; ++row) {
      const Interval taps = rows::taps_within(s, row, pairs.fine);
      const double share = static_cast<double>(taps.size()) / static_cast<double>(s.kernel);
      if (!taps.empty()) {
        flops += flops_of_call + share * (flops_of_coarse_row + flops_of_copied_value * weight_values);
      }
    }
    return flops;
  }
  [[nodiscard]] Strips forward(int rank) const {
    const Direction d{output.interval(rank), input.interval(rank), {0, output.rows()},
                      input.rows(),          !transposed,          keeps_bits ? out_positions : 0,
                      flops_of_coarse_row,   flops_of_a_call(),    copies(rank, 1, 0)};
    const bool bordered = boundary != Boundary::zeros;
    const Seams seams = d.to_coarse ? rows::coarse_seams(s, d.target, d.source, d.source_rows, bordered)
                                    : rows::fine_seams(s, d.target, d.source, d.source_rows);
    return make_strips(s, d, seams, fit(rank));
  }
  [[nodiscard]] Strips backward(int rank) const {
    // Whole windows take a copy of grad, one of x and one of the result.
    const Direction d{extended(rank),
                      output.interval(rank),
                      grid(),
                      output.rows(),
                      transposed,
                      keeps_bits ? in_positions : 0,
                      flops_of_coarse_row,
                      flops_of_a_call(),
                      slower_in_backward * copies(rank, 2, 1),
                      flops_of_pairs(pairs_before(rank)) + flops_of_pairs(pairs_after(rank))};
    const Interval own = input.interval(rank);
    Seams seams = d.to_coarse ? rows::coarse_seams(s, own, d.source, d.source_rows)
                              : rows::fine_seams(s, own, d.source, d.source_rows, round());
    seams.before.begin = d.target.begin;
    seams.after.end = d.target.end;
    return make_strips(s, d, seams, fit(rank));
  }
};

// The rows that the forward exchange brings, beside this rank's own, for its output. An output row may lie anywhere.
Seams kept_rows(const ConvolutionFacts& facts, int rank, const Strips& forward) {
  const Interval own = facts.input.interval(rank);
  Interval needed = rows::fine_rows(facts.s, facts.output.interval(rank));
  if (facts.boundary == Boundary::zeros) needed = rows::intersect(needed, {0, facts.input.rows()});
  const auto clear = [](Interval i) { return i.empty() ? Interval{0, 0} : i; };
  return {clear(rows::intersect({needed.begin, std::min(needed.end, own.begin)}, forward.before_needs)),
          clear(rows::intersect({std::max(needed.begin, own.end), needed.end},
                                forward.whole ? forward.before_needs : forward.after_needs))};
}

// A rank in place finds what others' rows of grad add to its part of the weight's gradient in the strips; one of whole
// windows would compute that part over all of them again. So if one takes whole windows, every rank's part is what its
// own rows of grad give.
bool goes_by_output_rows(const ConvolutionFacts& facts, const std::vector<Strips>& backward) {
  for (int r = 0; r < facts.input.ranks(); ++r) {
    if (!facts.transposed && backward[r].whole && !facts.input.interval(r).empty()) return true;
  }
  return false;
}

std::shared_ptr<const rows::ExchangePlan> exchange_of(const std::vector<Strips>& strips, const Partition& source,
                                                      Boundary boundary, int rank) {
  std::vector<rows::Wanted> parts(2);
  for (const Strips& s : strips) {
    parts[0].push_back(s.before_needs);
    parts[1].push_back(s.after_needs);
  }
  return std::make_shared<const rows::ExchangePlan>(source, std::move(parts), boundary, rank);
}

ConvolutionFacts facts_of(const at::Tensor& x, const at::Tensor& weight, const ConvolutionOptions& o,
                          const Placement& p, at::IntArrayRef out_sizes) {
  const Stencil s = stencil(o, weight, p.dim);
  const int64_t in_positions = positions_per_row(x.sizes(), p.dim);
  const int64_t out_positions = positions_per_row(out_sizes, p.dim);
  const auto row_values = [&](at::IntArrayRef sizes, int64_t positions) {
    return static_cast<double>(sizes[0] * sizes[1] * positions);
  };
  const int64_t coarse_positions = o.transposed ? in_positions : out_positions;
  const int64_t group_channels = o.transposed ? weight.size(1) : weight.size(0) / o.groups;
  return {s,
          o.transposed,
          o.row_boundary,
          p.input,
          p.output,
          p.output.rows() - rows::fine_size(s, p.input.rows(), 0),
          x.scalar_type() != at::kDouble,
          in_positions,
          out_positions,
          row_values(x.sizes(), in_positions),
          row_values(out_sizes, out_positions),
          2.0 * static_cast<double>(x.size(0) * coarse_positions) * static_cast<double>(weight.numel()) *
              whole_vectors(group_channels),
          static_cast<double>(weight.numel())};
}

// Everything but what only the tensors tell.
StripPlan make_plan(const ConvolutionFacts& facts, int rank) {
  std::vector<Strips> forward;
  std::vector<Strips> backward;
  for (int r = 0; r < facts.input.ranks(); ++r) {
    forward.push_back(facts.forward(r));
    backward.push_back(facts.backward(r));
  }
  StripPlan plan;
  plan.s = facts.s;
  plan.forward = forward[rank];
  plan.backward = backward[rank];
  plan.extended = facts.extended(rank);
  plan.outside_before = facts.pairs_before(rank);
  plan.outside_after = facts.pairs_after(rank);
  plan.weight_by_output_rows = goes_by_output_rows(facts, backward);
  if (plan.weight_by_output_rows) plan.kept = kept_rows(facts, rank, plan.forward);
  plan.forward.exchange = exchange_of(forward, facts.input, facts.boundary, rank);
  const Boundary beyond_output = facts.round() ? Boundary::circular : Boundary::zeros;
  plan.backward.exchange = exchange_of(backward, facts.output, beyond_output, rank);
  return plan;
}

// What the ranks must agree on beside the rows that travel.
comm::Facts shared_facts(const ConvolutionOptions& o, const Placement& p, at::IntArrayRef weight_sizes,
                         const char* direction) {
  comm::Facts facts;
  for (const auto* words : {&o.stride, &o.padding, &o.dilation, &o.output_padding}) facts.add(*words);
  facts.add(weight_sizes.vec()).add(static_cast<int64_t>(o.transposed)).add(o.groups);
  facts.add(static_cast<int64_t>(o.row_boundary)).add(static_cast<int64_t>(o.across_boundary));
  facts.add(p.input.offsets()).add(p.output.offsets()).add(direction);
  return facts;
}

}  // namespace

void force_convolution_path(ConvolutionPath path) { forced_path = path; }
ConvolutionPath forced_convolution_path() { return forced_path; }

Interval extended_grid(const Stencil& s, int64_t in_rows, int64_t out_rows, Boundary boundary) {
  if (boundary == Boundary::zeros || boundary == Boundary::circular) return {0, in_rows};
  const Interval reached = rows::fine_rows(s, {0, out_rows});
  return {std::min<int64_t>(reached.begin, 0), std::max(reached.end, in_rows)};
}

bool takes_boundary(const Stencil& s, const Partition& input, int64_t out_rows, Boundary boundary) {
  if (boundary == Boundary::zeros) return true;
  if (boundary == Boundary::circular) return rows::goes_round(s, input.rows(), out_rows);
  const int64_t more = boundary == Boundary::reflect ? 1 : 0;
  const Interval grid = extended_grid(s, input.rows(), out_rows, boundary);
  const auto holds = [&](Interval shard, int64_t beyond) {
    const int64_t sources = boundary == Boundary::replicate ? std::min<int64_t>(beyond, 1) : beyond;
    return shard.size() >= std::max<int64_t>(sources + more, 1);
  };
  return holds(input.interval(0), -grid.begin) && holds(input.interval(input.ranks() - 1), grid.end - input.rows());
}

std::shared_ptr<const StripPlan> find_strip_plan(const at::Tensor& x, const at::Tensor& weight,
                                                 const ConvolutionArguments& arguments, int rank) {
  static halo::PlanCache<StripPlan> plans;
  halo::PlanKey key;
  key.add(arguments.number).add(rank).add(static_cast<int64_t>(x.scalar_type())).add(x.sizes()).add(weight.sizes());
  key.add(static_cast<int64_t>(forced_convolution_path()));
  return plans.find(key, [&] {
    const ConvolutionOptions& o = arguments.options;
    const Placement& p = arguments.placement;
    TORCH_CHECK_VALUE(rank < p.input.ranks() && rank < p.output.ranks(), p.layer, ": rows cut over ", p.input.ranks(),
                      " and ", p.output.ranks(), " ranks, called on rank ", rank);
    const std::vector<int64_t> out_sizes = output_sizes(x, weight, o, p.dim, p.output.interval(rank).size());
    const ConvolutionFacts facts = facts_of(x, weight, o, p, out_sizes);
    TORCH_CHECK_VALUE(takes_boundary(facts.s, p.input, p.output.rows(), o.row_boundary), p.layer,
                      ": a convolution alone cannot make the rows beyond a grid of ", p.input.rows(), " rows for ",
                      p.output.rows(), " output rows, on rank ", rank);
    StripPlan plan = make_plan(facts, rank);
    plan.x_sizes = x.sizes().vec();
    plan.out_sizes = out_sizes;
    plan.local = fitted_options(o, facts.fit(rank), p.dim);
    plan.windows = window_options(o, p.dim);
    const auto tag = [&](at::IntArrayRef sizes, const Strips& strips, const char* direction) {
      return halo::Gather::tag(x.scalar_type(), sizes, *strips.exchange, {p.dim}, p.layer,
                               shared_facts(o, p, weight.sizes(), direction));
    };
    plan.forward.tag = tag(plan.x_sizes, plan.forward, "forward");
    plan.backward.tag = tag(plan.out_sizes, plan.backward, "backward");
    plan.halo_tag = tag(plan.x_sizes, plan.forward, "halo");
    return std::make_shared<const StripPlan>(std::move(plan));
  });
}

}  // namespace graticule::ops

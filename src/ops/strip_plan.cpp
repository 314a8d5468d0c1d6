#include "ops/strip_plan.hpp"

#include <mutex>
#include <unordered_map>
#include <utility>

#include "graticule/comm/facts.hpp"

namespace graticule::ops {
namespace {

using rows::Interval;
using rows::LocalFit;
using rows::Partition;
using rows::Seams;
using rows::Stencil;

// A strip of few positions makes the local kernel choose another blocking, which changes the last bits. Such a strip is
// computed with the rows beside it, and those are thrown away. float64 has no bits to keep: there kernels block by
// size.
constexpr int64_t least_positions = 256;

// Strips are computed twice, and a copy of the shard costs about as much as this share of the work.
constexpr int64_t most_strips = 8;

int64_t least_rows(int64_t positions) { return positions < 1 ? 1 : rows::ceil_div(least_positions, positions); }

// `strip` with rows beside it, as many as bits need and the grid has.
Interval widened(Interval strip, int64_t grid_rows, int64_t positions) {
  const int64_t missing = least_rows(positions) - strip.size();
  if (strip.empty() || missing <= 0) return strip;
  Interval wide{std::max<int64_t>(strip.begin - (missing + 1) / 2, 0), 0};
  wide.end = std::min(grid_rows, std::max(strip.end, wide.begin + strip.size() + missing));
  wide.begin = std::max<int64_t>(0, std::min(wide.begin, wide.end - strip.size() - missing));
  return wide;
}

struct Direction {
  const Partition& target;
  const Partition& source;
  bool to_coarse;
  int64_t positions;  // of the target
};

Strips make_strips(const Stencil& s, const Direction& d, const std::vector<LocalFit>& fits) {
  Strips strips;
  for (int rank = 0; rank < d.target.ranks(); ++rank) {
    const Interval own = d.target.interval(rank);
    const Interval source = d.source.interval(rank);
    Seams seams = d.to_coarse ? rows::coarse_seams(s, own, source, d.source.rows())
                              : rows::fine_seams(s, own, source, d.source.rows());
    const int64_t least = least_rows(d.positions);
    if (!seams.before.empty()) seams.before.end = std::max(seams.before.end, own.begin + least);
    if (!seams.after.empty()) seams.after.begin = std::min(seams.after.begin, own.end - least);
    const int64_t twice = seams.before.size() + seams.after.size();
    const bool whole = !fits[rank].fits || own.size() < least || twice * most_strips > own.size();
    strips.whole.push_back(whole);
    strips.before.push_back(whole ? widened(own, d.target.rows(), d.positions) : seams.before);
    strips.after.push_back(whole ? Interval{own.end, own.end} : seams.after);
    const auto needs = d.to_coarse ? rows::fine_rows : rows::coarse_rows;
    strips.before_needs.push_back(needs(s, strips.before.back()));
    strips.after_needs.push_back(needs(s, strips.after.back()));
  }
  return strips;
}

StripPlan make_plan(const StripKey& key) {
  const Partition input(key.in_offsets);
  const Partition output(key.out_offsets);
  StripPlan plan;
  for (int rank = 0; rank < input.ranks(); ++rank) {
    const Interval from = input.interval(rank);
    const Interval to = output.interval(rank);
    plan.fits.push_back(
        key.transposed
            ? rows::fit_transposed(key.stencil, from, to, output.rows() - rows::fine_size(key.stencil, input.rows(), 0))
            : rows::fit_convolution(key.stencil, from, to));
  }
  plan.forward = make_strips(key.stencil, {output, input, !key.transposed, key.out_positions}, plan.fits);
  plan.backward = make_strips(key.stencil, {input, output, key.transposed, key.in_positions}, plan.fits);
  return plan;
}

struct KeyHash {
  size_t operator()(const StripKey& k) const {
    comm::Facts facts;
    facts.add(k.stencil.kernel).add(k.stencil.stride).add(k.stencil.padding).add(k.stencil.dilation);
    facts.add(static_cast<int64_t>(k.transposed)).add(k.in_offsets).add(k.out_offsets);
    return facts.add(k.in_positions).add(k.out_positions).hash();
  }
};

// Shapes vary without end in some programs; a plan is cheap to make again.
constexpr size_t most_plans = 4096;

}  // namespace

std::shared_ptr<const StripPlan> find_strip_plan(const StripKey& key) {
  static std::mutex mutex;
  static std::unordered_map<StripKey, std::shared_ptr<const StripPlan>, KeyHash> plans;
  {
    const std::lock_guard lock(mutex);
    if (const auto found = plans.find(key); found != plans.end()) return found->second;
  }
  auto plan = std::make_shared<const StripPlan>(make_plan(key));
  const std::lock_guard lock(mutex);
  if (plans.size() >= most_plans) plans.clear();
  return plans.try_emplace(key, std::move(plan)).first->second;
}

}  // namespace graticule::ops

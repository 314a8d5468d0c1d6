#include "graticule/rows/exchange_plan.hpp"

#include <stdexcept>
#include <string>
#include <utility>

namespace graticule::rows {
namespace {

// Rows inside the grid come from their owners as they lie.
void append_inside(const Partition& partition, Interval wanted, std::vector<Segment>& result) {
  for (int64_t row = wanted.begin; row < wanted.end;) {
    const int owner = partition.owner(row);
    const int64_t end = std::min(wanted.end, partition.interval(owner).end);
    result.push_back({row, end - row, row, 1, false, owner});
    row = end;
  }
}

// Whether `segment` goes on with `source`, and if so with which step.
bool extend(Segment& segment, const Source& source, int owner) {
  if (segment.owner != owner || segment.across_pole != source.across_pole) return false;
  if (owner < 0) {
    ++segment.count;
    return true;
  }
  const int64_t last = segment.source + segment.step * (segment.count - 1);
  const int64_t step = source.row - last;
  if (step < -1 || step > 1 || (segment.count > 1 && step != segment.step)) return false;
  segment.step = static_cast<int>(step);
  ++segment.count;
  return true;
}

void append_outside(const Partition& partition, Interval wanted, Boundary boundary, std::vector<Segment>& result) {
  bool fresh = true;
  for (int64_t row = wanted.begin; row < wanted.end; ++row) {
    const Source source = source_row(boundary, row, partition.rows());
    const int owner = source.row < 0 ? -1 : partition.owner(source.row);
    if (fresh || !extend(result.back(), source, owner)) {
      result.push_back({row, 1, source.row, 1, source.across_pole, owner});
    }
    fresh = false;
  }
}

void add_to_peer(std::vector<PeerSegments>& peers, int peer, const Segment& segment) {
  auto at = peers.begin();
  while (at != peers.end() && at->peer < peer) ++at;
  if (at == peers.end() || at->peer != peer) at = peers.insert(at, PeerSegments{peer, {}, 0});
  at->segments.push_back(segment);
  at->rows += segment.source_rows().size();
}

}  // namespace

std::vector<Segment> segments(const Partition& partition, Interval wanted, Boundary boundary) {
  std::vector<Segment> result;
  if (wanted.empty()) return result;
  const Interval grid{0, partition.rows()};
  append_outside(partition, {wanted.begin, std::min<int64_t>(wanted.end, 0)}, boundary, result);
  append_inside(partition, intersect(wanted, grid), result);
  append_outside(partition, {std::max(wanted.begin, grid.end), wanted.end}, boundary, result);
  return result;
}

ExchangePlan::ExchangePlan(Partition cut, Wanted wanted, Boundary rule, int own_rank)
    : ExchangePlan(std::move(cut), std::vector<Wanted>{std::move(wanted)}, rule, own_rank) {}

ExchangePlan::ExchangePlan(Partition cut, std::vector<Wanted> wanted_parts, Boundary rule, int own_rank)
    : partition(std::move(cut)), parts(std::move(wanted_parts)), boundary(rule), rank(own_rank) {
  for (size_t part = 0; part < parts.size(); ++part) {
    const Wanted& wanted = parts[part];
    if (static_cast<int>(wanted.size()) != partition.ranks()) {
      throw std::invalid_argument("an exchange over " + std::to_string(partition.ranks()) +
                                  " ranks needs as many intervals, got " + std::to_string(wanted.size()));
    }
    for (int peer = 0; peer < partition.ranks(); ++peer) {
      for (Segment segment : segments(partition, wanted[peer], boundary)) {
        segment.part = static_cast<int>(part);
        if (peer == rank) {
          if (segment.owner == rank || segment.owner < 0) {
            local.push_back(segment);
          } else {
            add_to_peer(receives, segment.owner, segment);
          }
        } else if (segment.owner == rank) {
          add_to_peer(sends, peer, segment);
        }
      }
    }
  }
}

}  // namespace graticule::rows

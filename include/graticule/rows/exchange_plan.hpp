// Who sends which rows to whom.
#pragma once

#include <cstdint>
#include <vector>

#include "graticule/rows/boundary.hpp"
#include "graticule/rows/interval.hpp"
#include "graticule/rows/partition.hpp"

namespace graticule::rows {

/// A run of wanted rows that one owner supplies: wanted rows [wanted, wanted + count) are source rows
/// source, source + step, ... ; step 0 repeats one row.
struct Segment {
  int64_t wanted = 0;  ///< first row, in the extended grid
  int64_t count = 0;
  int64_t source = 0;  ///< source of the first row
  int step = 1;        ///< 1, 0 or -1
  bool across_pole = false;
  int owner = -1;  ///< the rank that holds the source rows, or -1: zeros
  int part = 0;    ///< which of the rank's wanted intervals

  /// Source rows, each once, in ascending order: what travels.
  [[nodiscard]] constexpr Interval source_rows() const {
    if (step == 0) return {source, source + 1};
    return step > 0 ? Interval{source, source + count} : Interval{source - count + 1, source + 1};
  }
  friend constexpr bool operator==(const Segment&, const Segment&) = default;
};

/// The segments that make up rows `wanted` of the grid extended by `boundary`, in ascending order of wanted rows.
/// Throws as source_row does.
[[nodiscard]] std::vector<Segment> segments(const Partition& partition, Interval wanted, Boundary boundary);

/// What one rank sends to and receives from one other rank: one message each way at most.
struct PeerSegments {
  int peer = 0;
  std::vector<Segment> segments;
  int64_t rows = 0;  ///< rows that travel
};

/// An interval of wanted rows for every rank.
using Wanted = std::vector<Interval>;

/// One rank's part in an exchange that gives every rank r the rows parts[0][r], and likewise for more parts: what goes
/// to one rank travels together, whichever part it belongs to. Immutable; a pure function of its arguments, so every
/// rank knows every other rank's plan without a message.
struct ExchangePlan {
  ExchangePlan(Partition partition, Wanted wanted, Boundary boundary, int rank);
  ExchangePlan(Partition partition, std::vector<Wanted> parts, Boundary boundary, int rank);

  Partition partition;
  std::vector<Wanted> parts;
  Boundary boundary;
  int rank;
  std::vector<Segment> local;          ///< rows of this rank's own, and zeros
  std::vector<PeerSegments> receives;  ///< ascending by peer
  std::vector<PeerSegments> sends;     ///< ascending by peer; the segments are those of the peer's wanted rows

  /// Rows that this rank owns, and rows that it gets.
  [[nodiscard]] Interval owned() const { return partition.interval(rank); }
  [[nodiscard]] Interval result(int part = 0) const { return parts[part][rank]; }
};

}  // namespace graticule::rows

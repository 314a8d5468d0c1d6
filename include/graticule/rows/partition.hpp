// Which rank owns which rows.
#pragma once

#include <cstdint>
#include <vector>

#include "graticule/rows/interval.hpp"

namespace graticule::rows {

/// A cut of rows [0, G) over N ranks: rank r owns [offsets[r], offsets[r + 1]), which may be empty.
class Partition {
 public:
  /// N + 1 ascending offsets, the first 0. Throws std::invalid_argument otherwise.
  explicit Partition(std::vector<int64_t> offsets);

  /// The cut that every tensor of `rows` rows has unless told otherwise: offset[r] = r * rows / ranks, rounded down.
  static Partition balanced(int64_t rows, int ranks);

  [[nodiscard]] int ranks() const { return static_cast<int>(offsets_.size()) - 1; }
  [[nodiscard]] int64_t rows() const { return offsets_.back(); }
  [[nodiscard]] Interval interval(int rank) const { return {offsets_[rank], offsets_[rank + 1]}; }
  [[nodiscard]] const std::vector<int64_t>& offsets() const { return offsets_; }
  /// The rank that owns `row`, which must lie in [0, rows()).
  [[nodiscard]] int owner(int64_t row) const;
  friend bool operator==(const Partition&, const Partition&) = default;

 private:
  std::vector<int64_t> offsets_;
};

/// The cut of a layer's output of `rows` rows when none is given: the input's own where the number of rows is the same
/// (a residual connection then just works), the balanced one otherwise.
[[nodiscard]] Partition output_partition(const Partition& input, int64_t rows);

}  // namespace graticule::rows

#include "graticule/rows/partition.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace graticule::rows {

Partition::Partition(std::vector<int64_t> offsets) : offsets_(std::move(offsets)) {
  if (offsets_.size() < 2) {
    throw std::invalid_argument("a partition needs at least 2 offsets, got " + std::to_string(offsets_.size()));
  }
  if (offsets_.front() != 0) {
    throw std::invalid_argument("a partition's first offset is 0, got " + std::to_string(offsets_.front()));
  }
  if (!std::is_sorted(offsets_.begin(), offsets_.end())) {
    throw std::invalid_argument("a partition's offsets ascend, these do not");
  }
}

Partition Partition::balanced(int64_t rows, int ranks) {
  if (rows < 0 || ranks < 1) {
    throw std::invalid_argument("cannot cut " + std::to_string(rows) + " rows over " + std::to_string(ranks) +
                                " ranks");
  }
  std::vector<int64_t> offsets(static_cast<size_t>(ranks) + 1);
  for (int rank = 0; rank <= ranks; ++rank) offsets[rank] = rank * rows / ranks;
  return Partition(std::move(offsets));
}

int Partition::owner(int64_t row) const {
  const auto past = std::upper_bound(offsets_.begin(), offsets_.end(), row);
  return static_cast<int>(past - offsets_.begin()) - 1;
}

Partition output_partition(const Partition& input, int64_t rows) {
  return rows == input.rows() ? input : Partition::balanced(rows, input.ranks());
}

}  // namespace graticule::rows

// Weighted sums along one dimension, as flat arrays.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "graticule/rows/interval.hpp"
#include "graticule/rows/resampling.hpp"

namespace graticule::ops {

/// One weight an entry, in both types that a kernel may compute in.
struct ResampleWeights {
  std::vector<float> narrow;
  std::vector<double> wide;

  void push_back(double weight) {
    narrow.push_back(static_cast<float>(weight));
    wide.push_back(weight);
  }
  template <typename T>
  [[nodiscard]] const T* data() const {
    if constexpr (std::is_same_v<T, float>) {
      return narrow.data();
    } else {
      return wide.data();
    }
  }
};

/// A sparse matrix by rows: result i is the sum over j in [starts[i], starts[i + 1]) of weights[j] * source sources[j],
/// in this order, and zero where there is none.
struct ResampleTable {
  std::vector<int64_t> starts{0};
  std::vector<int64_t> sources;
  ResampleWeights weights;

  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(starts.size()) - 1; }
  [[nodiscard]] int64_t taps(int64_t i) const { return starts[i + 1] - starts[i]; }
  /// The smallest interval that holds the sources of results [begin, end).
  [[nodiscard]] rows::Interval support(int64_t begin, int64_t end) const;
  /// The most sources that lie between the first and the last of one result, both counted.
  [[nodiscard]] int64_t widest_support() const;
  [[nodiscard]] int64_t most_taps() const;
  /// Whether the results are the sources.
  [[nodiscard]] bool is_identity(int64_t source_count) const;
};

/// The same with equally many taps for each result, tap by tap: tap t of result i is entry t * size + i. A result that
/// has fewer takes a zero behind the sources, by weight zero, and the table is `padded`.
struct LineTable {
  int64_t size = 0;
  int64_t taps = 0;
  bool padded = false;
  std::vector<int32_t> sources;
  ResampleWeights weights;
};

/// Rows `rows` of the matrix of these taps.
ResampleTable table_of(const std::vector<rows::Taps<double>>& taps, rows::Interval rows);

/// Rows `columns` of the transposed matrix.
ResampleTable transposed_table_of(const std::vector<rows::Taps<double>>& taps, rows::Interval columns);

/// `table`'s sources are counted from sources.begin.
LineTable line_table_of(const ResampleTable& table, rows::Interval sources);

}  // namespace graticule::ops

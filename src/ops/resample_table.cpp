#include "ops/resample_table.hpp"

#include <algorithm>

namespace graticule::ops {

using rows::Interval;
using rows::Taps;

Interval ResampleTable::support(int64_t begin, int64_t end) const {
  const auto first = sources.begin() + starts[begin];
  const auto last = sources.begin() + starts[end];
  if (first == last) return {0, 0};
  const auto [low, high] = std::minmax_element(first, last);
  return {*low, *high + 1};
}

int64_t ResampleTable::widest_support() const {
  int64_t widest = 0;
  for (int64_t i = 0; i < size(); ++i) widest = std::max(widest, support(i, i + 1).size());
  return widest;
}

int64_t ResampleTable::most_taps() const {
  int64_t most = 0;
  for (int64_t i = 0; i < size(); ++i) most = std::max(most, taps(i));
  return most;
}

bool ResampleTable::is_identity(int64_t source_count) const {
  if (size() != source_count) return false;
  for (int64_t i = 0; i < size(); ++i) {
    if (taps(i) != 1 || sources[starts[i]] != i || weights.wide[starts[i]] != 1.0) return false;
  }
  return true;
}

ResampleTable table_of(const std::vector<Taps<double>>& taps, Interval rows) {
  ResampleTable table;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for (size_t tap = 0; tap < taps[row].rows.size(); ++tap) {
      table.sources.push_back(taps[row].rows[tap]);
      table.weights.push_back(taps[row].weights[tap]);
    }
    table.starts.push_back(static_cast<int64_t>(table.sources.size()));
  }
  return table;
}

ResampleTable transposed_table_of(const std::vector<Taps<double>>& taps, Interval columns) {
  std::vector<Taps<double>> transposed(columns.size());
  for (size_t row = 0; row < taps.size(); ++row) {
    for (size_t tap = 0; tap < taps[row].rows.size(); ++tap) {
      const int64_t column = taps[row].rows[tap];
      if (!columns.contains(column)) continue;
      transposed[column - columns.begin].rows.push_back(static_cast<int64_t>(row));
      transposed[column - columns.begin].weights.push_back(taps[row].weights[tap]);
    }
  }
  return table_of(transposed, {0, columns.size()});
}

LineTable line_table_of(const ResampleTable& table, Interval sources) {
  LineTable line{table.size(), std::max<int64_t>(table.most_taps(), 1), false, {}, {}};
  for (int64_t tap = 0; tap < line.taps; ++tap) {
    for (int64_t i = 0; i < line.size; ++i) {
      const bool there = tap < table.taps(i);
      const int64_t entry = table.starts[i] + tap;
      line.padded = line.padded || !there;
      line.sources.push_back(static_cast<int32_t>(there ? table.sources[entry] - sources.begin : sources.size()));
      line.weights.push_back(there ? table.weights.wide[entry] : 0.0);
    }
  }
  return line;
}

}  // namespace graticule::ops

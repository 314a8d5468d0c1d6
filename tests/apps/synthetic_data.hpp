// A small data set: waves that travel around the globe, some faster than others.
#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>
#include <optional>
#include <vector>

#include "data_set.hpp"
#include "graticule/comm/domain.hpp"
#include "graticule/rows/partition.hpp"

namespace graticule::apps {

/// Samples [first, first + count) of two fields a and b, (count, 2, times, rows of this rank, columns).
inline at::Tensor travelling_waves(int64_t first, int64_t count, int64_t first_time, int64_t times,
                                   const at::Tensor& latitudes, int64_t columns) {
  const auto axis = [](int64_t begin, int64_t size) { return at::arange(begin, begin + size, at::kDouble); };
  const at::Tensor sample = axis(first, count).view({-1, 1, 1, 1, 1});
  const at::Tensor field = axis(1, 2).view({1, -1, 1, 1, 1});
  const at::Tensor time = axis(first_time, times).view({1, 1, -1, 1, 1});
  const at::Tensor latitude = (latitudes * (std::numbers::pi / 180)).view({1, 1, 1, -1, 1});
  const at::Tensor longitude = (axis(0, columns) * (2 * std::numbers::pi / columns)).view({1, 1, 1, 1, -1});
  return (field * longitude - 0.4 * time * latitude.cos() + 1.7 * sample + field * latitude).sin() * latitude.cos() *
             5 +
         3 * field;
}

inline Samples synthetic_samples(int64_t first, int64_t count, const at::Tensor& latitudes, int64_t columns) {
  Samples samples;
  samples.inputs = travelling_waves(first, count, 0, 2, latitudes, columns);
  samples.targets = travelling_waves(first, count, 2, 1, latitudes, columns);
  samples.baseline = samples.inputs.slice(2, 1).clone();
  return samples;
}

inline DataSet synthetic_data(int64_t rows, int64_t columns, const std::optional<comm::Domain>& domain) {
  DataSet data;
  data.offsets = rows::Partition::balanced(rows, domain.has_value() ? domain->size() : 1).offsets();
  for (int64_t row = 0; row < rows; ++row) {
    data.latitudes.push_back(90 - 180.0 * static_cast<double>(row) / (static_cast<double>(rows) - 1));
  }
  data.columns = columns;
  data.input_names = {"a", "b"};
  data.target_names = {"a", "b"};
  data.target_units = {"m", "m s-1"};
  data.baseline_name = "persistence";
  const size_t rank = domain.has_value() ? static_cast<size_t>(domain->rank()) : 0;
  const at::Tensor own = at::tensor(data.latitudes, at::kDouble).slice(0, data.offsets[rank], data.offsets[rank + 1]);
  data.training = synthetic_samples(0, 6, own, columns);
  data.test = synthetic_samples(6, 3, own, columns);
  return data;
}

}  // namespace graticule::apps

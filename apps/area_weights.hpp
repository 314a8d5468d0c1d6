// How much of the sphere a row of a latitude-longitude grid covers.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace graticule::apps {

/// The share of the sphere's area between the parallels half-way to the neighbouring rows (to the pole at both ends):
/// the difference of the sines of the two parallels, over the sum of all rows. (rows), float64; sums to 1 over the
/// whole grid. `latitudes` in degrees, strictly descending; throws c10::ValueError otherwise.
at::Tensor area_weights(const std::vector<double>& latitudes);

/// The same for the rows [begin, end) of the grid, as a column (rows, 1) that multiplies fields (..., rows, W).
at::Tensor area_weights(const std::vector<double>& latitudes, int64_t begin, int64_t end);

}  // namespace graticule::apps

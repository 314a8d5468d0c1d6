// Where shallow-water runs start: published test cases.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "sphere_grid.hpp"

namespace graticule::apps {

/// Steady solid-body flow once around the sphere in 12 days, its axis `axis_angle` radians from the grid's: test case 2
/// of Williamson et al. (1992, J. Comput. Phys. 102). Needs a ShallowWater of the same axis_angle. Fields as
/// ShallowWater's, one run, rows [first_row, first_row + rows).
at::Tensor steady_flow(const SphereGrid& grid, int64_t first_row, int64_t rows, double axis_angle);

/// A bump of the height field: amplitude [m] and the centre [radians].
struct HeightBump {
  double amplitude = 120;
  double longitude = 0;
  double latitude = 0.7853981633974483;
};

/// The barotropically unstable jet between latitudes pi/7 and pi/2 - pi/7 of Galewsky et al. (2004, Tellus 56A), 80 m/s
/// fast, its height in balance and 10 km on average; one run a bump. Fields as ShallowWater's.
at::Tensor unstable_jet(const SphereGrid& grid, int64_t first_row, int64_t rows, const std::vector<HeightBump>& bumps);

}  // namespace graticule::apps

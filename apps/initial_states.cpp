#include "initial_states.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

namespace graticule::apps {
namespace {

constexpr double pi = std::numbers::pi;

template <typename Function>
void fill(at::Tensor field, int64_t first_row, Function&& value) {
  auto values = field.accessor<double, 2>();
  for (int64_t row = 0; row < field.size(0); ++row) {
    for (int64_t i = 0; i < field.size(1); ++i) values[row][i] = value(first_row + row, i);
  }
}

double jet_wind(double latitude) {
  constexpr double fastest = 80, south = pi / 7, north = pi / 2 - pi / 7;
  if (latitude <= south || latitude >= north) return 0;
  const double scale = std::exp(-4 / ((north - south) * (north - south)));
  return fastest / scale * std::exp(1 / ((latitude - south) * (latitude - north)));
}

// Metres a radian: the slope of the height that balances the jet.
double balanced_slope(double latitude) {
  const double u = jet_wind(latitude);
  const double coriolis = 2 * earth_rotation * std::sin(latitude);
  return -earth_radius / earth_gravity * u * (coriolis + std::tan(latitude) / earth_radius * u);
}

// The integral over [from, to] by Simpson's rule.
double integrate_slope(double from, double to) {
  constexpr int panels = 200;
  const double width = (to - from) / panels;
  double sum = 0;
  for (int i = 0; i < panels; ++i) {
    const double left = from + i * width;
    sum += balanced_slope(left) + 4 * balanced_slope(left + width / 2) + balanced_slope(left + width);
  }
  return sum * width / 6;
}

// One height a row of the whole grid, 10 km on average over the sphere.
std::vector<double> balanced_heights(const SphereGrid& grid) {
  std::vector<double> heights{0};
  for (int64_t row = 1; row < grid.rows; ++row) {
    heights.push_back(heights.back() + integrate_slope(grid.row_latitude(row - 1), grid.row_latitude(row)));
  }
  double sum = 0, area = 0;
  for (int64_t row = 0; row < grid.rows; ++row) {
    const double weight = std::cos(grid.row_latitude(row));
    sum += weight * heights[row];
    area += weight;
  }
  for (double& height : heights) height += 10000 - sum / area;
  return heights;
}

double bump_height(const HeightBump& bump, double latitude, double longitude) {
  constexpr double width = 1.0 / 3, depth = 1.0 / 15;
  const double east = std::remainder(longitude - bump.longitude, 2 * pi) / width;
  const double north = (bump.latitude - latitude) / depth;
  return bump.amplitude * std::cos(latitude) * std::exp(-east * east) * std::exp(-north * north);
}

}  // namespace

at::Tensor steady_flow(const SphereGrid& grid, int64_t first_row, int64_t rows, double axis_angle) {
  const double speed = 2 * pi * earth_radius / (12 * seconds_a_day);
  const double sine = std::sin(axis_angle), cosine = std::cos(axis_angle);
  at::Tensor fields = at::zeros({3, 1, rows, grid.columns}, at::kDouble);
  fill(fields[0][0], first_row, [&](int64_t row, int64_t i) {
    const double latitude = grid.row_latitude(row), longitude = grid.column_longitude(i);
    const double up = std::sin(latitude) * cosine - std::cos(longitude) * std::cos(latitude) * sine;
    return (2.94e4 - (earth_radius * earth_rotation * speed + speed * speed / 2) * up * up) / earth_gravity;
  });
  fill(fields[1][0], first_row, [&](int64_t row, int64_t i) {
    const double latitude = grid.row_latitude(row);
    return speed * (std::cos(latitude) * cosine + std::cos(grid.face_longitude(i)) * std::sin(latitude) * sine);
  });
  fill(fields[2][0], first_row,
       [&](int64_t edge, int64_t i) { return edge == 0 ? 0 : -speed * std::sin(grid.column_longitude(i)) * sine; });
  return fields;
}

at::Tensor unstable_jet(const SphereGrid& grid, int64_t first_row, int64_t rows, const std::vector<HeightBump>& bumps) {
  const auto runs = static_cast<int64_t>(bumps.size());
  const std::vector<double> heights = balanced_heights(grid);
  at::Tensor fields = at::zeros({3, runs, rows, grid.columns}, at::kDouble);
  for (int64_t run = 0; run < runs; ++run) {
    fill(fields[0][run], first_row, [&](int64_t row, int64_t i) {
      return heights[row] + bump_height(bumps[run], grid.row_latitude(row), grid.column_longitude(i));
    });
    fill(fields[1][run], first_row, [&](int64_t row, int64_t) { return jet_wind(grid.row_latitude(row)); });
  }
  return fields;
}

}  // namespace graticule::apps

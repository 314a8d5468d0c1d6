#include "simulated_data.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>
#include <vector>

#include "initial_states.hpp"
#include "shallow_water.hpp"

namespace graticule::apps {
namespace {

constexpr int64_t input_times = 2;
constexpr int64_t output_times = 2;

void check(const SimulationOptions& options) {
  TORCH_CHECK_VALUE(options.test_runs >= 1 && options.test_runs < options.runs, "simulation: ", options.runs,
                    " runs cannot hold out ", options.test_runs, ": at least one must stay to train on");
  TORCH_CHECK_VALUE(options.first_day >= 0 && options.interval_hours > 0,
                    "simulation: the first day must not be negative and the interval must be positive");
}

int64_t count_snapshots(const SimulationOptions& options) {
  const double hours = (options.last_day - options.first_day) * 24;
  const auto count = static_cast<int64_t>(std::floor(hours / options.interval_hours + 1e-9)) + 1;
  TORCH_CHECK_VALUE(count >= input_times + output_times, "simulation: day ", options.first_day, " to ",
                    options.last_day, " in steps of ", options.interval_hours, " h gives fewer snapshots than the ",
                    input_times + output_times, " of a sample");
  return count;
}

// The library's distributions differ between implementations; its engines do not.
double uniform(std::mt19937_64& engine, double low, double high) {
  return low + (high - low) * static_cast<double>(engine() >> 11) * 0x1p-53;
}

std::vector<HeightBump> random_bumps(int64_t runs, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::vector<HeightBump> bumps;
  for (int64_t run = 0; run < runs; ++run) {
    HeightBump bump;
    bump.amplitude = uniform(engine, 120, 360);
    bump.longitude = uniform(engine, 0, 2 * std::numbers::pi);
    bump.latitude = uniform(engine, 35, 55) * std::numbers::pi / 180;
    bumps.push_back(bump);
  }
  return bumps;
}

// Centred fields (runs, fields, times, rows, columns).
at::Tensor integrate(const ShallowWater& model, at::Tensor fields, const SimulationOptions& options) {
  const int64_t count = count_snapshots(options);
  const double first = options.first_day * seconds_a_day, interval = options.interval_hours * 3600;
  const double end = first + static_cast<double>(count - 1) * interval;
  double now = 0;
  const auto advance_to = [&](double time) {
    while (now < time) {
      const double part = std::min(time - now, interval);
      fields = model.advance(fields, part);
      now += part;
      if (options.on_progress) options.on_progress(std::min(1.0, now / end));
    }
  };
  std::vector<at::Tensor> snapshots;
  for (int64_t i = 0; i < count; ++i) {
    advance_to(first + static_cast<double>(i) * interval);
    snapshots.push_back(model.centred(fields).transpose(0, 1));
  }
  return at::stack(snapshots, 2);
}

// Every window of `length` times from `start` on, as samples: (runs * windows, fields, length, rows, columns).
at::Tensor windows(const at::Tensor& series, int64_t start, int64_t length, int64_t count) {
  std::vector<at::Tensor> parts;
  for (int64_t i = 0; i < count; ++i) parts.push_back(series.narrow(2, start + i, length));
  return at::stack(parts, 1).flatten(0, 1);
}

Samples cut_samples(const at::Tensor& series) {
  const int64_t count = series.size(2) - input_times - output_times + 1;
  const at::Tensor last = windows(series, input_times - 1, 1, count);
  return {windows(series, 0, input_times, count), windows(series, input_times, output_times, count),
          last.expand({-1, -1, output_times, -1, -1}).contiguous()};
}

}  // namespace

DataSet simulate(const SimulationOptions& options, const std::optional<comm::Domain>& domain) {
  check(options);
  ShallowWaterOptions flow;
  flow.grid = {options.rows, options.columns};
  flow.diffusion_time = 24 * 3600;
  const ShallowWater model(flow, domain);
  const at::Tensor start =
      unstable_jet(flow.grid, model.first_row(), model.local_rows(), random_bumps(options.runs, options.seed));
  const at::Tensor series = integrate(model, start, options);

  DataSet data;
  data.offsets = model.offsets();
  for (int64_t row = 0; row < options.rows; ++row) {
    data.latitudes.push_back(flow.grid.row_latitude(row) * 180 / std::numbers::pi);
  }
  data.columns = options.columns;
  data.input_names = data.target_names = {"h", "u", "v"};
  data.target_units = {"m", "m/s", "m/s"};
  data.baseline_name = "persistence";
  const int64_t training_runs = options.runs - options.test_runs;
  data.training = cut_samples(series.narrow(0, 0, training_runs));
  data.test = cut_samples(series.narrow(0, training_runs, options.test_runs));
  return data;
}

}  // namespace graticule::apps

// What `graticule train` can be told.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "options.hpp"
#include "simulated_data.hpp"

namespace graticule::apps {

struct TrainSettings {
  std::string out;
  std::string load;
  bool require_skill = false;

  std::string data;  ///< a NetCDF file; empty: simulate
  std::vector<std::string> inputs;
  std::vector<std::string> targets;
  SimulationOptions simulation;

  std::optional<int64_t> channels;  ///< those of the checkpoint, else default_channels
  std::optional<bool> float64;      ///< that of the checkpoint, else no
  std::optional<int64_t> steps;     ///< default_steps unless epochs are given
  std::optional<int64_t> epochs;
  int64_t batch = 8;
  double learning_rate = 2e-3;
  int64_t seed = 0;

  static constexpr int64_t default_channels = 32;
  static constexpr int64_t default_steps = 400;
};

/// The options, which write into `settings`; it must outlive the table.
std::vector<Option> train_options(TrainSettings& settings);

/// Throws OptionError where settings do not go together.
void check_settings(const TrainSettings& settings);

}  // namespace graticule::apps

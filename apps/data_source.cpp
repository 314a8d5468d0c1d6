#include "data_source.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "netcdf_data.hpp"

namespace graticule::apps {
namespace {

EmulatorOptions options_for(const DataSet& data, int64_t channels) {
  EmulatorOptions options;
  options.input_channels = data.training.inputs.size(1);
  options.input_times = data.training.inputs.size(2);
  options.output_channels = data.training.targets.size(1);
  options.output_times = data.training.targets.size(2);
  options.rows = data.offsets.back();
  options.columns = data.columns;
  options.channels = channels;
  return options;
}

DataSet simulate_with(const TrainSettings& settings, const std::optional<comm::Domain>& domain,
                      const std::function<void(double)>& on_progress) {
  SimulationOptions options = settings.simulation;
  options.test_runs = std::max<int64_t>(1, options.runs / 4);
  options.seed = static_cast<uint64_t>(settings.seed);
  options.on_progress = on_progress;
  return simulate(options, domain);
}

}  // namespace

DataSet load_data(const TrainSettings& settings, const std::optional<comm::Domain>& domain,
                  const std::function<void(double)>& on_progress) {
  if (settings.data.empty()) return simulate_with(settings, domain, on_progress);
  NetCdfOptions options;
  options.path = settings.data;
  options.input_names = settings.inputs;
  options.target_names = settings.targets;
  DataSet data = read_netcdf(options, domain);
  on_progress(1);
  return data;
}

CheckpointHeader new_header(const TrainSettings& settings, const DataSet& data) {
  CheckpointHeader header;
  header.options = options_for(data, settings.channels.value_or(TrainSettings::default_channels));
  header.type = settings.float64.value_or(false) ? at::kDouble : at::kFloat;
  header.input_names = data.input_names;
  header.target_names = data.target_names;
  return header;
}

void check_header(const CheckpointHeader& header, const TrainSettings& settings, const DataSet& data) {
  const int64_t channels = settings.channels.value_or(header.options.channels);
  TORCH_CHECK_VALUE(channels == header.options.channels, settings.load, " has a network of ", header.options.channels,
                    " channels, not ", channels);
  TORCH_CHECK_VALUE(header.options == options_for(data, channels), settings.load, " is for a grid of ",
                    header.options.rows, " x ", header.options.columns, ", ", header.options.input_times, " input and ",
                    header.options.output_times, " output times; the data have ", data.offsets.back(), " x ",
                    data.columns, ", ", data.training.inputs.size(2), " and ", data.training.targets.size(2));
  TORCH_CHECK_VALUE(header.input_names == data.input_names && header.target_names == data.target_names, settings.load,
                    " forecasts ", header.target_names, " from ", header.input_names, ", the data have ",
                    data.target_names, " and ", data.input_names);
}

}  // namespace graticule::apps

#include "train_settings.hpp"

#include <fmt/format.h>

namespace graticule::apps {
namespace {

void append_data_options(std::vector<Option>& table, TrainSettings& s) {
  SimulationOptions& simulation = s.simulation;
  table.push_back(text_option("data", "FILE", "train on this NetCDF file instead of a simulation", s.data));
  table.push_back(list_option("inputs", "A,B", "the file's variables to forecast from", s.inputs));
  table.push_back(list_option("targets", "A,B", "the file's variables to forecast", s.targets));
  table.push_back(integer_option("rows", "N", fmt::format("simulation: rows of the grid ({})", simulation.rows), 9,
                                 [&](int64_t n) { simulation.rows = n; }));
  table.push_back(integer_option("columns", "N",
                                 fmt::format("simulation: columns of the grid, even ({})", simulation.columns), 8,
                                 [&](int64_t n) { simulation.columns = n; }));
  table.push_back(integer_option("runs", "N",
                                 fmt::format("simulation: runs, a quarter of them held out ({})", simulation.runs), 2,
                                 [&](int64_t n) { simulation.runs = n; }));
  table.push_back(positive_option("days", "D", fmt::format("simulation: days of each run ({:g})", simulation.last_day),
                                  [&](double days) { simulation.last_day = days; }));
}

void append_training_options(std::vector<Option>& table, TrainSettings& s) {
  table.push_back(integer_option("steps", "N",
                                 fmt::format("training steps ({}); 0: only evaluate", TrainSettings::default_steps), 0,
                                 [&](int64_t n) { s.steps = n; }));
  table.push_back(integer_option("epochs", "N", "instead of --steps: passes through the samples", 1,
                                 [&](int64_t n) { s.epochs = n; }));
  table.push_back(
      integer_option("batch", "N", fmt::format("samples a step ({})", s.batch), 1, [&](int64_t n) { s.batch = n; }));
  table.push_back(positive_option("learning-rate", "X", fmt::format("highest rate of AdamW ({:g})", s.learning_rate),
                                  [&](double rate) { s.learning_rate = rate; }));
  table.push_back(integer_option("seed", "N", fmt::format("of weights, order and simulation ({})", s.seed), 0,
                                 [&](int64_t n) { s.seed = n; }));
  table.push_back(integer_option(
      "channels", "N", fmt::format("width of the network, a multiple of 8 ({})", TrainSettings::default_channels), 8,
      [&](int64_t n) {
        if (n % 8 != 0) throw OptionError(fmt::format("--channels: expected a multiple of 8, got {}", n));
        s.channels = n;
      }));
  table.push_back({"dtype", "TYPE", "float32 or float64 (float32)", [&](const std::string& text) {
                     if (text != "float32" && text != "float64") {
                       throw OptionError("--dtype: expected float32 or float64, got '" + text + "'");
                     }
                     s.float64 = text == "float64";
                   }});
}

}  // namespace

std::vector<Option> train_options(TrainSettings& s) {
  std::vector<Option> table;
  table.push_back(text_option("out", "DIR", "folder for metrics.jsonl, checkpoint.pt and pictures (required)", s.out));
  append_data_options(table, s);
  append_training_options(table, s);
  table.push_back(text_option("load", "FILE", "go on from this checkpoint; it decides the network's size", s.load));
  table.push_back(
      flag_option("require-skill", "fail unless every target is forecast better than the baseline", s.require_skill));
  return table;
}

void check_settings(const TrainSettings& s) {
  if (s.out.empty()) throw OptionError("--out is required");
  if (s.steps.has_value() && s.epochs.has_value()) throw OptionError("--steps and --epochs exclude each other");
  if (s.data.empty() && !(s.inputs.empty() && s.targets.empty())) {
    throw OptionError("--inputs and --targets belong to --data");
  }
  if (!s.data.empty() && (s.inputs.empty() || s.targets.empty())) {
    throw OptionError("--data needs --inputs and --targets");
  }
  if (s.simulation.columns % 2 != 0) {
    throw OptionError(fmt::format("--columns: expected an even number, got {}", s.simulation.columns));
  }
  const double least_days = s.simulation.first_day + 3 * s.simulation.interval_hours / 24;
  if (s.simulation.last_day < least_days) {
    throw OptionError(fmt::format("--days: expected at least {:g}, got {:g}", least_days, s.simulation.last_day));
  }
}

}  // namespace graticule::apps

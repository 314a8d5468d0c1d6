// A trained network on disk. A file written by any number of ranks is read by any other.
#pragma once

#include <torch/optim/adamw.h>

#include <cstdint>
#include <string>
#include <vector>

#include "emulator.hpp"
#include "normalisation.hpp"

namespace graticule::apps {

/// All that is needed to build the network and to feed it.
struct CheckpointHeader {
  EmulatorOptions options;
  at::ScalarType type = at::kFloat;  ///< of the parameters
  std::vector<std::string> input_names;
  std::vector<std::string> target_names;
  Normalisation normalisation;
  int64_t steps = 0;  ///< trained so far
};

/// Writes all of it to a file beside `path` and renames that: a reader never meets half a checkpoint. To be called by
/// one rank. Throws c10::Error where it cannot be written.
void save_checkpoint(const std::string& path, const CheckpointHeader& header, const Emulator& model,
                     const torch::optim::AdamW& optimizer);

/// Throws c10::Error where `path` is no checkpoint.
CheckpointHeader load_header(const std::string& path);

/// Fills `model`, built with the header's options, whose parameters keep their type.
void load_parameters(const std::string& path, Emulator& model);

/// Fills the optimizer of a model of the header's type.
void load_optimizer(const std::string& path, torch::optim::AdamW& optimizer);

}  // namespace graticule::apps

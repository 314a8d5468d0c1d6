// Where a run's data come from, and the network that fits them.
#pragma once

#include <functional>
#include <optional>

#include "checkpoint.hpp"
#include "data_set.hpp"
#include "graticule/comm/domain.hpp"
#include "train_settings.hpp"

namespace graticule::apps {

/// Simulates, or reads the file that the settings name. Collective over the domain. `on_progress` gets the fraction
/// done, last 1.
DataSet load_data(const TrainSettings& settings, const std::optional<comm::Domain>& domain,
                  const std::function<void(double)>& on_progress);

/// The header of a new network for the data, without its normalisation.
CheckpointHeader new_header(const TrainSettings& settings, const DataSet& data);

/// Throws c10::ValueError where the checkpoint is for other data or of another size than the settings ask for.
void check_header(const CheckpointHeader& header, const TrainSettings& settings, const DataSet& data);

}  // namespace graticule::apps

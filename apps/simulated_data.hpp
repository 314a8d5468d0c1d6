// Training data without a download: perturbed runs of an unstable jet.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "data_set.hpp"
#include "graticule/comm/domain.hpp"

namespace graticule::apps {

struct SimulationOptions {
  int64_t rows = 61;      ///< at least 4
  int64_t columns = 120;  ///< at least 4, even
  int64_t runs = 8;       ///< each with a bump of its own
  int64_t test_runs = 2;  ///< how many of them, the last ones, are held out
  double first_day = 2;   ///< of the snapshots
  double last_day = 7;
  double interval_hours = 6;
  uint64_t seed = 1;
  std::function<void(double fraction)> on_progress;  ///< called on every rank as the simulation advances, last with 1
};

/// Integrates the jet of Galewsky et al. (2004) with bumps of random size and place, and cuts samples out of the runs:
/// inputs h, u, v at t - interval and t, targets h, u, v at t + interval and t + 2 intervals, for every t that has
/// these; baseline: the fields at t (persistence). u and v are averaged to the cell centres. Samples are ordered by
/// run, then time. The rows are cut evenly. The same data on any number of ranks, to rounding. All ranks must call.
DataSet simulate(const SimulationOptions& options, const std::optional<comm::Domain>& domain);

}  // namespace graticule::apps

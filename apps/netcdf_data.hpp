// Training data from a NetCDF file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data_set.hpp"
#include "graticule/comm/domain.hpp"

namespace graticule::apps {

struct NetCdfOptions {
  std::string path;
  std::vector<std::string> input_names;   ///< variables of the file
  std::vector<std::string> target_names;  ///< variables of the file
  std::vector<int64_t> training_times;    ///< indices along the time dimension
  std::vector<int64_t> test_times;        ///< likewise; both lists empty: the first half trains, the rest tests
};

/// One sample a time and level, by time, then level: from the inputs at the time before and the time itself to the
/// targets at that time (F = 1). Where the same list of times does not hold the time before, the time stands twice.
/// Baseline: the mean of the training targets on the same level (climatology).
///
/// Rows come north to south whatever the file's order, cut evenly; each rank reads its own rows only. Packed variables
/// are unpacked. All ranks must call. Where any rank fails, all throw its error: no file, no such variable, no
/// latitudes, sizes that differ, missing values, a program built without NetCDF-C.
DataSet read_netcdf(const NetCdfOptions& options, const std::optional<comm::Domain>& domain);

}  // namespace graticule::apps

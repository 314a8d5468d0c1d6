// Samples to train on and to test on, as one rank holds them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace graticule::apps {

/// float64, in physical units, this rank's rows only. S samples, T input times, F output times, W longitudes.
struct Samples {
  at::Tensor inputs;    ///< (S, C_in, T, rows, W)
  at::Tensor targets;   ///< (S, C_out, F, rows, W)
  at::Tensor baseline;  ///< (S, C_out, F, rows, W): the forecast to beat
};

struct DataSet {
  std::vector<int64_t> offsets;   ///< the cut of the grid's rows: N + 1 offsets
  std::vector<double> latitudes;  ///< degrees, one a row of the whole grid, north to south
  int64_t columns = 0;
  std::vector<std::string> input_names;
  std::vector<std::string> target_names;
  std::vector<std::string> target_units;
  std::string baseline_name;  ///< persistence or climatology
  Samples training;
  Samples test;
};

}  // namespace graticule::apps

// The promise, checked: the trained network cut and uncut give the same.
#pragma once

#include <string>
#include <vector>

#include "data_set.hpp"
#include "emulator.hpp"
#include "graticule/comm/domain.hpp"
#include "normalisation.hpp"

namespace graticule::apps {

/// Relative differences, each the largest difference of a tensor over the tensor's largest magnitude.
struct Exactness {
  double output = 0;
  double input_gradient = 0;
  double parameter_gradients = 0;  ///< the worst parameter's

  [[nodiscard]] double worst() const;
};

/// Runs a float64 copy of `model` forward and backward on the first training sample, cut over the domain, and again on
/// rank 0 alone, on the gathered grid. Collective; the same result on every rank.
Exactness check_exactness(const Emulator& model, const DataSet& data, const Normalisation& by,
                          const comm::Domain& domain);

}  // namespace graticule::apps

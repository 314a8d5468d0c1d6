// How good a forecast is, beside the baseline.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "data_set.hpp"
#include "emulator.hpp"
#include "graticule/comm/domain.hpp"
#include "normalisation.hpp"

namespace graticule::apps {

/// Root mean square errors over samples, times and the area of the sphere, one a target, in the target's unit.
struct Skill {
  std::vector<double> forecast;
  std::vector<double> baseline;

  /// Whether the forecast beats the baseline in every target.
  [[nodiscard]] bool beats_baseline() const;
};

/// The forecasts of samples [begin, end) in physical units: (end - begin, C_out, F, rows, W), float64, this rank's
/// rows. Collective over the model's domain.
at::Tensor forecast_samples(Emulator& model, const Samples& samples, int64_t begin, int64_t end,
                            const Normalisation& by);

/// Collective over the domain. `weights` (rows, 1): this rank's share of area_weights. Runs `batch` samples at a time.
Skill evaluate(Emulator& model, const Samples& samples, const Normalisation& by, const at::Tensor& weights,
               int64_t batch, const std::optional<comm::Domain>& domain);

}  // namespace graticule::apps

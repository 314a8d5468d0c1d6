// From physical units to numbers of order one and back.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "data_set.hpp"
#include "graticule/comm/domain.hpp"

namespace graticule::apps {

/// Means and standard deviations over the training samples and the area of the sphere. float64, the same on every rank.
///
/// The network sees the last input time, and the others as differences to it: tendencies are small beside the state. It
/// predicts the residual: what the target is beyond its reference. The reference is the baseline forecast where targets
/// are the inputs' later values, and 0 otherwise.
struct Normalisation {
  bool from_baseline = true;
  at::Tensor input_mean, input_deviation;        ///< (C_in, T)
  at::Tensor residual_mean, residual_deviation;  ///< (C_out, F)
};

/// `weights` (rows, 1): this rank's share of area_weights. Collective over the domain. What does not vary gets the
/// deviation 1.
Normalisation normalisation_of(const Samples& training, bool from_baseline, const at::Tensor& weights,
                               const std::optional<comm::Domain>& domain);

/// What the network takes and is to give, normalised, in the type it computes in.
struct NormalisedSamples {
  at::Tensor inputs;     ///< (S, C_in, T, rows, W)
  at::Tensor residuals;  ///< (S, C_out, F, rows, W)
};

NormalisedSamples normalise(const Samples& samples, const Normalisation& by, at::ScalarType type);

/// The forecast in physical units, float64, from the network's output and the baseline.
at::Tensor forecast(const at::Tensor& output, const at::Tensor& baseline, const Normalisation& by);

}  // namespace graticule::apps

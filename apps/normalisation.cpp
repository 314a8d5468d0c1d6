#include "normalisation.hpp"

#include <ATen/ATen.h>

#include "graticule/comm/collectives.hpp"

namespace graticule::apps {
namespace {

// (C) as (C, 1, 1, 1), to go with (S, C, T, rows, W).
at::Tensor per_channel(const at::Tensor& values) { return values.view({-1, 1, 1, 1}); }

// The mean over samples, times and the sphere, a channel. `weights` sum to 1 over the rows of all ranks.
at::Tensor mean(const at::Tensor& x, const at::Tensor& weights, const std::optional<comm::Domain>& domain) {
  at::Tensor sum = (x * weights).sum({0, 2, 3, 4});
  if (domain.has_value()) comm::all_reduce_sum_(*domain, sum, "normalisation");
  return sum / static_cast<double>(x.size(0) * x.size(2) * x.size(4));
}

at::Tensor residuals_of(const Samples& samples, bool from_baseline) {
  return from_baseline ? samples.targets - samples.baseline : samples.targets;
}

at::Tensor deviation(const at::Tensor& x, const at::Tensor& about, const at::Tensor& weights,
                     const std::optional<comm::Domain>& domain) {
  const at::Tensor result = mean((x - per_channel(about)).square(), weights, domain).sqrt();
  return at::where(result > 0, result, at::ones_like(result));
}

}  // namespace

Normalisation normalisation_of(const Samples& training, bool from_baseline, const at::Tensor& weights,
                               const std::optional<comm::Domain>& domain) {
  const at::Tensor residuals = residuals_of(training, from_baseline);
  Normalisation result;
  result.from_baseline = from_baseline;
  result.input_mean = mean(training.inputs, weights, domain);
  result.input_deviation = deviation(training.inputs, result.input_mean, weights, domain);
  result.residual_mean = mean(residuals, weights, domain);
  result.residual_deviation = deviation(residuals, result.residual_mean, weights, domain);
  return result;
}

NormalisedSamples normalise(const Samples& samples, const Normalisation& by, at::ScalarType type) {
  const at::Tensor inputs = (samples.inputs - per_channel(by.input_mean)) / per_channel(by.input_deviation);
  const at::Tensor residuals =
      (residuals_of(samples, by.from_baseline) - per_channel(by.residual_mean)) / per_channel(by.residual_deviation);
  return {inputs.to(type), residuals.to(type)};
}

at::Tensor forecast(const at::Tensor& output, const at::Tensor& baseline, const Normalisation& by) {
  const at::Tensor residual =
      output.to(at::kDouble) * per_channel(by.residual_deviation) + per_channel(by.residual_mean);
  return by.from_baseline ? baseline + residual : residual;
}

}  // namespace graticule::apps

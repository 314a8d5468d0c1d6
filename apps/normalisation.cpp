#include "normalisation.hpp"

#include <ATen/ATen.h>

#include "graticule/comm/collectives.hpp"

namespace graticule::apps {
namespace {

// (C, T) as (C, T, 1, 1), to go with (S, C, T, rows, W).
at::Tensor over_grid(const at::Tensor& values) { return values.unsqueeze(-1).unsqueeze(-1); }

// (C, T): the mean over samples and the sphere. `weights` sum to 1 over the rows of all ranks.
at::Tensor mean(const at::Tensor& x, const at::Tensor& weights, const std::optional<comm::Domain>& domain) {
  at::Tensor sum = (x * weights).sum({0, 3, 4});
  if (domain.has_value()) comm::all_reduce_sum_(*domain, sum, "normalisation");
  return sum / static_cast<double>(x.size(0) * x.size(4));
}

at::Tensor with_differences(const at::Tensor& inputs) {
  const at::Tensor last = inputs.slice(2, inputs.size(2) - 1);
  return at::cat({inputs.slice(2, 0, -1) - last, last}, 2);
}

at::Tensor residuals_of(const Samples& samples, bool from_baseline) {
  return from_baseline ? samples.targets - samples.baseline : samples.targets;
}

at::Tensor deviation(const at::Tensor& x, const at::Tensor& about, const at::Tensor& weights,
                     const std::optional<comm::Domain>& domain) {
  const at::Tensor result = mean((x - over_grid(about)).square(), weights, domain).sqrt();
  return at::where(result > 0, result, at::ones_like(result));
}

}  // namespace

Normalisation normalisation_of(const Samples& training, bool from_baseline, const at::Tensor& weights,
                               const std::optional<comm::Domain>& domain) {
  const at::Tensor residuals = residuals_of(training, from_baseline);
  Normalisation result;
  result.from_baseline = from_baseline;
  const at::Tensor inputs = with_differences(training.inputs);
  result.input_mean = mean(inputs, weights, domain);
  result.input_deviation = deviation(inputs, result.input_mean, weights, domain);
  result.residual_mean = mean(residuals, weights, domain);
  result.residual_deviation = deviation(residuals, result.residual_mean, weights, domain);
  return result;
}

NormalisedSamples normalise(const Samples& samples, const Normalisation& by, at::ScalarType type) {
  const at::Tensor inputs =
      (with_differences(samples.inputs) - over_grid(by.input_mean)) / over_grid(by.input_deviation);
  const at::Tensor residuals =
      (residuals_of(samples, by.from_baseline) - over_grid(by.residual_mean)) / over_grid(by.residual_deviation);
  return {inputs.to(type), residuals.to(type)};
}

at::Tensor forecast(const at::Tensor& output, const at::Tensor& baseline, const Normalisation& by) {
  const at::Tensor residual = output.to(at::kDouble) * over_grid(by.residual_deviation) + over_grid(by.residual_mean);
  return by.from_baseline ? baseline + residual : residual;
}

}  // namespace graticule::apps

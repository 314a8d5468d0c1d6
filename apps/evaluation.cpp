#include "evaluation.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "graticule/comm/collectives.hpp"

namespace graticule::apps {
namespace {

Samples narrow(const Samples& samples, int64_t begin, int64_t end) {
  return {samples.inputs.slice(0, begin, end), samples.targets.slice(0, begin, end),
          samples.baseline.slice(0, begin, end)};
}

// (C): the weighted sum of squared errors of this rank's rows.
at::Tensor squared_error(const at::Tensor& forecast, const at::Tensor& truth, const at::Tensor& weights) {
  return ((forecast - truth).square() * weights).sum({0, 2, 3, 4});
}

std::vector<double> roots(const at::Tensor& mean_squares) {
  const at::Tensor values = mean_squares.sqrt().contiguous();
  return {values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel()};
}

}  // namespace

bool Skill::beats_baseline() const {
  for (size_t i = 0; i < forecast.size(); ++i) {
    if (!(forecast[i] < baseline[i])) return false;
  }
  return true;
}

at::Tensor forecast_samples(Emulator& model, const Samples& samples, int64_t begin, int64_t end,
                            const Normalisation& by) {
  const at::NoGradGuard no_grad;
  const Samples chosen = narrow(samples, begin, end);
  const at::ScalarType type = model->parameters().front().scalar_type();
  return forecast(model->forward(normalise(chosen, by, type).inputs), chosen.baseline, by);
}

Skill evaluate(Emulator& model, const Samples& samples, const Normalisation& by, const at::Tensor& weights,
               int64_t batch, const std::optional<comm::Domain>& domain) {
  const int64_t count = samples.inputs.size(0);
  TORCH_CHECK_VALUE(count > 0, "an evaluation needs at least one sample");
  at::Tensor sums = at::zeros({2, samples.targets.size(1)}, at::kDouble);
  for (int64_t begin = 0; begin < count; begin += batch) {
    const int64_t end = std::min(count, begin + batch);
    const at::Tensor truth = samples.targets.slice(0, begin, end);
    sums[0].add_(squared_error(forecast_samples(model, samples, begin, end, by), truth, weights));
    sums[1].add_(squared_error(samples.baseline.slice(0, begin, end), truth, weights));
  }
  if (domain.has_value()) comm::all_reduce_sum_(*domain, sums, "evaluation");
  const at::Tensor means = sums / static_cast<double>(count * samples.targets.size(2) * samples.targets.size(4));
  return {roots(means[0]), roots(means[1])};
}

}  // namespace graticule::apps

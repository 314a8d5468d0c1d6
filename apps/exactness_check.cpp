#include "exactness_check.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

#include "area_weights.hpp"
#include "comparison.hpp"
#include "graticule/comm/collectives.hpp"
#include "graticule/nn/sharding.hpp"
#include "training.hpp"

namespace graticule::apps {
namespace {

constexpr int64_t rows_dim = 3;

struct Pass {
  at::Tensor output;
  at::Tensor input_gradient;
  std::vector<at::Tensor> gradients;
};

Emulator float64_copy(const Emulator& model, const std::vector<double>& latitudes,
                      const std::optional<comm::Domain>& domain) {
  const at::NoGradGuard no_grad;
  Emulator copy(model->options(), latitudes, domain);
  copy->to(at::kDouble);
  const auto originals = model->named_parameters();
  for (auto& item : copy->named_parameters()) item.value().copy_(originals[item.key()]);
  return copy;
}

// This rank's rows of output and input gradient, and whole parameter gradients.
Pass run(const Emulator& trained, const DataSet& data, const NormalisedSamples& sample, const at::Tensor& weights,
         const std::optional<comm::Domain>& domain) {
  Emulator model = float64_copy(trained, data.latitudes, domain);
  const at::Tensor inputs = sample.inputs.detach().clone().requires_grad_(true);
  Pass pass;
  const at::Tensor output = model->forward(inputs);
  loss_part(output, sample.residuals, weights).backward();
  if (domain.has_value()) sync_domain_gradients(model->parameters(), *domain);
  pass.output = output.detach();
  pass.input_gradient = inputs.grad();
  for (const at::Tensor& p : model->parameters()) pass.gradients.push_back(p.grad());
  return pass;
}

Pass run_cut(const Emulator& model, const DataSet& data, const NormalisedSamples& sample, const comm::Domain& domain) {
  const auto rank = static_cast<size_t>(domain.rank());
  const at::Tensor weights = area_weights(data.latitudes, data.offsets[rank], data.offsets[rank + 1]);
  Pass pass = run(model, data, sample, weights, domain);
  pass.output = gather_tensor(pass.output, rows_dim, domain);
  pass.input_gradient = gather_tensor(pass.input_gradient, rows_dim, domain);
  return pass;
}

at::Tensor compare(const Pass& cut, const Pass& whole) {
  double gradients = 0;
  for (size_t i = 0; i < whole.gradients.size(); ++i) {
    gradients = std::max(gradients, relative_difference(cut.gradients[i], whole.gradients[i]));
  }
  return at::tensor({relative_difference(cut.output, whole.output),
                     relative_difference(cut.input_gradient, whole.input_gradient), gradients},
                    at::kDouble);
}

}  // namespace

double Exactness::worst() const { return std::max({output, input_gradient, parameter_gradients}); }

Exactness check_exactness(const Emulator& model, const DataSet& data, const Normalisation& by,
                          const comm::Domain& domain) {
  const Samples first{data.training.inputs.slice(0, 0, 1), data.training.targets.slice(0, 0, 1),
                      data.training.baseline.slice(0, 0, 1)};
  const NormalisedSamples sample = normalise(first, by, at::kDouble);
  const Pass cut = run_cut(model, data, sample, domain);
  const NormalisedSamples gathered{gather_tensor(sample.inputs, rows_dim, domain),
                                   gather_tensor(sample.residuals, rows_dim, domain)};
  // Only rank 0 has something to tell: the sum is its result.
  at::Tensor differences = at::zeros({3}, at::kDouble);
  if (domain.rank() == 0) {
    const at::Tensor weights = area_weights(data.latitudes).unsqueeze(-1);
    differences = compare(cut, run(model, data, gathered, weights, std::nullopt));
  }
  comm::all_reduce_sum_(domain, differences, "exactness check");
  return {differences[0].item<double>(), differences[1].item<double>(), differences[2].item<double>()};
}

}  // namespace graticule::apps

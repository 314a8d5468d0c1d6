#include "training.hpp"

#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>

#include "graticule/comm/collectives.hpp"
#include "graticule/nn/sharding.hpp"

namespace graticule::apps {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double sum_over_ranks(const at::Tensor& part, const std::optional<comm::Domain>& domain) {
  at::Tensor sum = part.detach().to(at::kDouble).reshape({1});
  if (domain.has_value()) comm::all_reduce_sum_(*domain, sum, "loss");
  return sum.item<double>();
}

void set_learning_rate(torch::optim::AdamW& optimizer, double rate) {
  for (auto& group : optimizer.param_groups()) group.options().set_lr(rate);
}

}  // namespace

torch::optim::AdamW make_optimizer(Emulator& model, double learning_rate) {
  return torch::optim::AdamW(model->parameters(), torch::optim::AdamWOptions(learning_rate).weight_decay(1e-4));
}

double learning_rate_at(int64_t step, const TrainingOptions& options) {
  const auto warm_up = static_cast<double>(std::max<int64_t>(1, options.steps / 20));
  const auto done = static_cast<double>(step - 1);
  if (done < warm_up) return options.learning_rate * (done + 1) / warm_up;
  const double rest = std::max(1.0, static_cast<double>(options.steps) - warm_up);
  return options.learning_rate * (1 + std::cos(std::numbers::pi * (done - warm_up) / rest)) / 2;
}

SampleOrder::SampleOrder(int64_t samples, uint64_t seed)
    : samples_(samples), generator_(at::make_generator<at::CPUGeneratorImpl>(seed)) {
  TORCH_CHECK_VALUE(samples > 0, "training needs at least one sample");
}

at::Tensor SampleOrder::next(int64_t count) {
  std::vector<at::Tensor> parts;
  while (count > 0) {
    if (!order_.defined() || position_ == samples_) {
      order_ = at::randperm(samples_, generator_, at::kLong);
      position_ = 0;
    }
    const int64_t taken = std::min(count, samples_ - position_);
    parts.push_back(order_.narrow(0, position_, taken));
    position_ += taken;
    count -= taken;
  }
  return at::cat(parts);
}

at::Tensor loss_part(const at::Tensor& output, const at::Tensor& expected, const at::Tensor& weights) {
  const auto fields = static_cast<double>(output.size(0) * output.size(1) * output.size(2) * output.size(4));
  return ((output - expected).square() * weights.to(output.scalar_type())).sum() / fields;
}

void train(Emulator& model, torch::optim::AdamW& optimizer, const NormalisedSamples& samples, const at::Tensor& weights,
           const TrainingOptions& options, const std::optional<comm::Domain>& domain,
           const std::function<void(const TrainingStep&)>& on_step) {
  SampleOrder order(samples.inputs.size(0), options.seed);
  for (int64_t step = 1; step <= options.steps; ++step) {
    const auto start = std::chrono::steady_clock::now();
    const double rate = learning_rate_at(step, options);
    set_learning_rate(optimizer, rate);
    const at::Tensor chosen = order.next(options.batch);
    optimizer.zero_grad();
    const at::Tensor output = model->forward(samples.inputs.index_select(0, chosen));
    const at::Tensor part = loss_part(output, samples.residuals.index_select(0, chosen), weights);
    part.backward();
    if (domain.has_value()) sync_domain_gradients(model->parameters(), *domain);
    const double loss = sum_over_ranks(part, domain);
    TORCH_CHECK(std::isfinite(loss), "the loss of step ", step, " is ", loss, ": try a smaller learning rate");
    optimizer.step();
    on_step({step, loss, rate, seconds_since(start)});
  }
}

}  // namespace graticule::apps

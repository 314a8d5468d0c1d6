// Training on a cut grid against training on the whole one.
#include "training.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numeric>
#include <vector>

#include "apps/synthetic_data.hpp"
#include "area_weights.hpp"
#include "comparison.hpp"
#include "graticule/nn/sharding.hpp"
#include "support/threads.hpp"

namespace graticule::apps {
namespace {

struct Outcome {
  std::vector<double> losses;
  std::vector<at::Tensor> parameters;
};

Outcome trained(int64_t rows, int64_t steps, const std::optional<comm::Domain>& domain) {
  const DataSet data = synthetic_data(rows, 16, domain);
  const size_t rank = domain.has_value() ? static_cast<size_t>(domain->rank()) : 0;
  const at::Tensor weights = area_weights(data.latitudes, data.offsets[rank], data.offsets[rank + 1]);
  const Normalisation normalisation = normalisation_of(data.training, true, weights, domain);
  EmulatorOptions options;
  options.input_channels = options.output_channels = 2;
  options.rows = rows;
  options.columns = 16;
  options.channels = 8;
  Emulator model(options, data.latitudes, domain);
  model->to(at::kDouble);
  model->initialise(5);
  torch::optim::AdamW optimizer = make_optimizer(model, 1e-3);
  Outcome result;
  train(model, optimizer, normalise(data.training, normalisation, at::kDouble), weights,
        {.steps = steps, .batch = 4, .learning_rate = 1e-3, .seed = 7}, domain,
        [&](const TrainingStep& step) { result.losses.push_back(step.loss); });
  for (const at::Tensor& p : model->parameters()) result.parameters.push_back(p.detach());
  return result;
}

TEST(Training, LossCurveIsTheSameOnAnyNumberOfRanks) {
  const Outcome whole = trained(13, 8, std::nullopt);
  ASSERT_EQ(whole.losses.size(), 8);
  EXPECT_LT(whole.losses.back(), whole.losses.front());
  std::mutex mutex;
  for (const int ranks : {1, 2, 3, 4}) {
    support::run_ranks(ranks, [&](const comm::Domain& domain) {
      const Outcome cut = trained(13, 8, domain);
      const std::lock_guard lock(mutex);
      ASSERT_EQ(cut.losses.size(), whole.losses.size());
      for (size_t i = 0; i < cut.losses.size(); ++i) {
        EXPECT_LT(std::abs(cut.losses[i] - whole.losses[i]), 1e-9 * whole.losses[i]) << ranks << " ranks, step " << i;
      }
      for (size_t i = 0; i < cut.parameters.size(); ++i) {
        EXPECT_LT(relative_difference(cut.parameters[i], whole.parameters[i]), 1e-9) << ranks << " ranks, " << i;
      }
    });
  }
}

TEST(Training, LearnsWhatThereIsToLearn) {
  const Outcome result = trained(13, 60, std::nullopt);
  EXPECT_LT(result.losses.back(), 0.1 * result.losses.front());
}

TEST(Training, OrderTakesEverySampleOnceARound) {
  SampleOrder order(5, 1);
  SampleOrder same(5, 1);
  std::vector<int64_t> taken;
  for (int i = 0; i < 5; ++i) {
    const at::Tensor next = order.next(3);
    EXPECT_TRUE(next.equal(same.next(3)));
    taken.insert(taken.end(), next.data_ptr<int64_t>(), next.data_ptr<int64_t>() + next.numel());
  }
  std::vector<int64_t> all(5);
  std::iota(all.begin(), all.end(), 0);
  for (size_t round = 0; round < 3; ++round) {
    std::vector<int64_t> of_round(taken.begin() + 5 * static_cast<int64_t>(round),
                                  taken.begin() + 5 * static_cast<int64_t>(round + 1));
    std::sort(of_round.begin(), of_round.end());
    EXPECT_EQ(of_round, all);
  }
}

TEST(Training, LearningRateRisesThenFallsToZero) {
  const TrainingOptions options{.steps = 100, .batch = 1, .learning_rate = 2, .seed = 0};
  EXPECT_DOUBLE_EQ(learning_rate_at(1, options), 0.4);
  EXPECT_DOUBLE_EQ(learning_rate_at(5, options), 2);
  EXPECT_DOUBLE_EQ(learning_rate_at(6, options), 2);
  EXPECT_LT(learning_rate_at(100, options), 1e-3);
  for (int64_t step = 7; step <= 100; ++step) {
    EXPECT_LT(learning_rate_at(step, options), learning_rate_at(step - 1, options));
  }
}

TEST(Training, RefusesADataSetWithoutSamples) { EXPECT_THROW(SampleOrder(0, 1), c10::ValueError); }

TEST(AreaWeights, AreSharesOfTheSphere) {
  // Edges at 90, 60, 30 and -30 degrees, then further ones.
  const at::Tensor weights = area_weights({75, 45, 15, -75, -80});
  EXPECT_NEAR(weights.sum().item<double>(), 1, 1e-15);
  EXPECT_NEAR(weights[0].item<double>(), (1 - std::sqrt(3.0) / 2) / 2, 1e-15);
  EXPECT_NEAR(weights[1].item<double>(), (std::sqrt(3.0) / 2 - 0.5) / 2, 1e-15);
  EXPECT_NEAR(weights[2].item<double>(), 0.5, 1e-15);
  EXPECT_THROW(area_weights({-45, 45}), c10::ValueError);
}

TEST(Normalisation, HasMeanZeroAndDeviationOneOverTheSphere) {
  const DataSet data = synthetic_data(13, 16, std::nullopt);
  const at::Tensor weights = area_weights(data.latitudes, 0, 13);
  for (const bool from_baseline : {true, false}) {
    const Normalisation by = normalisation_of(data.training, from_baseline, weights, std::nullopt);
    const NormalisedSamples samples = normalise(data.training, by, at::kDouble);
    for (const at::Tensor& x : {samples.inputs, samples.residuals}) {
      const at::Tensor mean = (x * weights).sum({3}).mean(at::IntArrayRef{0, 3});
      const at::Tensor square = (x.square() * weights).sum({3}).mean(at::IntArrayRef{0, 3});
      EXPECT_LT(mean.abs().max().item<double>(), 1e-13);
      EXPECT_LT((square - 1).abs().max().item<double>(), 1e-13);
    }
    const at::Tensor back = forecast(samples.residuals, data.training.baseline, by);
    EXPECT_LT(relative_difference(back, data.training.targets), 1e-14);
  }
}

}  // namespace
}  // namespace graticule::apps

// Training of a cut network, step by step the training of the uncut one.
#pragma once

#include <torch/optim/adamw.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "emulator.hpp"
#include "graticule/comm/domain.hpp"
#include "normalisation.hpp"

namespace graticule::apps {

struct TrainingOptions {
  int64_t steps = 0;
  int64_t batch = 8;
  double learning_rate = 2e-3;  ///< at the first step after the warm-up; follows a half cosine to 0
  uint64_t seed = 0;            ///< of the order of the samples, the same on every rank
};

struct TrainingStep {
  int64_t step = 0;  ///< from 1
  double loss = 0;   ///< before the step, over the whole grid
  double learning_rate = 0;
  double seconds = 0;  ///< that the step took
};

torch::optim::AdamW make_optimizer(Emulator& model, double learning_rate);

/// The rate at `step` from 1 to `steps`: a linear warm-up over the first twentieth, then a half cosine.
double learning_rate_at(int64_t step, const TrainingOptions& options);

/// The samples of each step: every sample once before any comes again.
class SampleOrder {
 public:
  SampleOrder(int64_t samples, uint64_t seed);
  /// The next `count` samples, int64.
  at::Tensor next(int64_t count);

 private:
  int64_t samples_;
  at::Generator generator_;
  at::Tensor order_;
  int64_t position_ = 0;
};

/// This rank's part of the mean of the squared differences of (B, C, F, rows, W), weighted by `weights` (rows, 1): the
/// ranks' parts add up to the mean over the whole grid, and their gradients to its gradient.
at::Tensor loss_part(const at::Tensor& output, const at::Tensor& expected, const at::Tensor& weights);

/// Collective over the domain. Calls `on_step` after each step on every rank. Throws c10::Error where the loss is no
/// longer finite.
void train(Emulator& model, torch::optim::AdamW& optimizer, const NormalisedSamples& samples, const at::Tensor& weights,
           const TrainingOptions& options, const std::optional<comm::Domain>& domain,
           const std::function<void(const TrainingStep&)>& on_step);

}  // namespace graticule::apps

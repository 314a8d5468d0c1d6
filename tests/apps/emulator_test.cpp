// The cut network against itself uncut: output, input gradient and every parameter gradient.
#include "emulator.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <string>

#include "comparison.hpp"
#include "graticule/nn/sharding.hpp"
#include "support/threads.hpp"

namespace graticule::apps {
namespace {

struct Grid {
  int64_t rows;
  int64_t columns;
};

EmulatorOptions options_of(Grid grid) {
  EmulatorOptions options;
  options.input_channels = 2;
  options.output_channels = 3;
  options.output_times = 2;
  options.rows = grid.rows;
  options.columns = grid.columns;
  options.channels = 8;
  return options;
}

std::vector<double> latitudes_of(int64_t rows) {
  std::vector<double> result;
  for (int64_t row = 0; row < rows; ++row) result.push_back(90 - 180.0 * static_cast<double>(row) / (rows - 1.0));
  return result;
}

at::Tensor random(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed), at::kDouble);
}

struct Pass {
  at::Tensor output, input_gradient;
  std::map<std::string, at::Tensor> gradients;
};

// One forward and backward pass with a loss that weighs every output differently.
Pass run(Grid grid, const std::optional<comm::Domain>& domain) {
  const EmulatorOptions options = options_of(grid);
  Emulator model(options, latitudes_of(grid.rows), domain);
  model->to(at::kDouble);
  model->initialise(3);
  at::Tensor x = random({2, 2, 2, grid.rows, grid.columns}, 1);
  at::Tensor factor = random({2, 3, 2, grid.rows, grid.columns}, 2);
  if (domain.has_value()) {
    x = shard_tensor(x, 3, *domain);
    factor = shard_tensor(factor, 3, *domain);
  }
  x.requires_grad_(true);
  Pass pass;
  const at::Tensor y = model->forward(x);
  (y * factor).sum().backward();
  if (domain.has_value()) sync_domain_gradients(model->parameters(), *domain);
  const at::NoGradGuard no_grad;
  pass.output = domain.has_value() ? gather_tensor(y.detach(), 3, *domain) : y.detach();
  pass.input_gradient = domain.has_value() ? gather_tensor(x.grad(), 3, *domain) : x.grad();
  for (const auto& item : model->named_parameters()) pass.gradients[item.key()] = item.value().grad();
  return pass;
}

class EmulatorTest : public ::testing::TestWithParam<std::tuple<int, Grid>> {};

TEST_P(EmulatorTest, CutEqualsUncut) {
  const auto [ranks, grid] = GetParam();
  const Pass whole = run(grid, std::nullopt);
  ASSERT_EQ(whole.output.sizes(), at::IntArrayRef({2, 3, 2, grid.rows, grid.columns}));
  std::mutex mutex;
  support::run_ranks(ranks, [&](const comm::Domain& domain) {
    const Pass cut = run(grid, domain);
    const std::lock_guard lock(mutex);
    EXPECT_LT(relative_difference(cut.output, whole.output), 1e-11);
    EXPECT_LT(relative_difference(cut.input_gradient, whole.input_gradient), 1e-11);
    ASSERT_EQ(cut.gradients.size(), whole.gradients.size());
    for (const auto& [name, gradient] : whole.gradients) {
      EXPECT_GT(gradient.abs().max().item<double>(), 0) << name;
      EXPECT_LT(relative_difference(cut.gradients.at(name), gradient), 1e-11) << name;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, EmulatorTest,
                         ::testing::Combine(::testing::Values(2, 3, 4),
                                            ::testing::Values(Grid{13, 16}, Grid{16, 10}, Grid{61, 24})));

TEST(Emulator, HasTheSameStateOnAnyNumberOfRanks) {
  Emulator whole(options_of({13, 16}), latitudes_of(13), std::nullopt);
  support::run_ranks(3, [&](const comm::Domain& domain) {
    Emulator cut(options_of({13, 16}), latitudes_of(13), domain);
    const auto expected = whole->named_parameters();
    const auto parameters = cut->named_parameters();
    ASSERT_EQ(parameters.size(), expected.size());
    for (const auto& item : expected) EXPECT_EQ(parameters[item.key()].sizes(), item.value().sizes()) << item.key();
    EXPECT_TRUE(cut->buffers().empty());
  });
}

// Longitude has no edge: turning the input turns the output.
TEST(Emulator, KnowsNoDateLine) {
  Emulator model(options_of({13, 16}), latitudes_of(13), std::nullopt);
  model->to(at::kDouble);
  model->initialise(3);
  const at::NoGradGuard no_grad;
  const at::Tensor x = random({1, 2, 2, 13, 16}, 1);
  const at::Tensor turned = model->forward(x.roll(8, -1));
  EXPECT_LT(relative_difference(turned, model->forward(x).roll(8, -1)), 1e-11);
}

TEST(Emulator, RefusesWhatItCannotDo) {
  EmulatorOptions options = options_of({13, 16});
  options.channels = 12;
  EXPECT_THROW(Emulator(options, latitudes_of(13), std::nullopt), c10::ValueError);
  EXPECT_THROW(Emulator(options_of({8, 16}), latitudes_of(8), std::nullopt), c10::ValueError);
  EXPECT_THROW(Emulator(options_of({13, 16}), latitudes_of(12), std::nullopt), c10::ValueError);
}

}  // namespace
}  // namespace graticule::apps

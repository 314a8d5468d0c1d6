#include "simulated_data.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "support/threads.hpp"

namespace graticule::apps {
namespace {

SimulationOptions small() {
  SimulationOptions options;
  options.rows = 13;
  options.columns = 24;
  options.runs = 3;
  options.test_runs = 1;
  options.first_day = 0.5;
  options.last_day = 2;
  return options;
}

TEST(SimulatedData, SamplesAreWindowsOfTheRuns) {
  const DataSet data = simulate(small(), std::nullopt);
  // Day 0.5 to 2 every 6 hours: 7 snapshots, 4 windows of 2 + 2.
  EXPECT_EQ(data.training.inputs.sizes(), at::IntArrayRef({8, 3, 2, 13, 24}));
  EXPECT_EQ(data.training.targets.sizes(), at::IntArrayRef({8, 3, 2, 13, 24}));
  EXPECT_EQ(data.training.baseline.sizes(), at::IntArrayRef({8, 3, 2, 13, 24}));
  EXPECT_EQ(data.test.inputs.sizes(), at::IntArrayRef({4, 3, 2, 13, 24}));
  EXPECT_EQ(data.training.inputs.scalar_type(), at::kDouble);
  // A sample's input at t is the next one's at t - 6 h; its first target is the next one's input at t.
  EXPECT_TRUE(at::equal(data.training.inputs[0].select(1, 1), data.training.inputs[1].select(1, 0)));
  EXPECT_TRUE(at::equal(data.training.targets[0].select(1, 0), data.training.inputs[1].select(1, 1)));
  EXPECT_TRUE(at::equal(data.training.targets[0].select(1, 1), data.training.inputs[2].select(1, 1)));
  for (const int64_t lead : {0, 1}) {
    EXPECT_TRUE(at::equal(data.test.baseline.select(2, lead), data.test.inputs.select(2, 1)));
  }
  EXPECT_FALSE(at::equal(data.training.inputs[0], data.training.inputs[4]));
}

TEST(SimulatedData, SaysWhatItHolds) {
  const DataSet data = simulate(small(), std::nullopt);
  EXPECT_EQ(data.offsets, (std::vector<int64_t>{0, 13}));
  EXPECT_EQ(data.columns, 24);
  ASSERT_EQ(data.latitudes.size(), 13U);
  EXPECT_NEAR(data.latitudes.front(), 90 - 90.0 / 13, 1e-12);
  EXPECT_NEAR(data.latitudes[6], 0, 1e-12);
  EXPECT_EQ(data.input_names, (std::vector<std::string>{"h", "u", "v"}));
  EXPECT_EQ(data.target_names, data.input_names);
  EXPECT_EQ(data.target_units, (std::vector<std::string>{"m", "m/s", "m/s"}));
  EXPECT_EQ(data.baseline_name, "persistence");
}

TEST(SimulatedData, TheSeedDecidesTheRuns) {
  const at::Tensor once = simulate(small(), std::nullopt).training.targets;
  EXPECT_TRUE(at::equal(simulate(small(), std::nullopt).training.targets, once));
  SimulationOptions other = small();
  other.seed = 2;
  EXPECT_FALSE(at::equal(simulate(other, std::nullopt).training.targets, once));
}

TEST(SimulatedData, ProgressRisesToOne) {
  SimulationOptions options = small();
  std::vector<double> seen;
  options.on_progress = [&](double fraction) { seen.push_back(fraction); };
  simulate(options, std::nullopt);
  ASSERT_EQ(seen.size(), 8U);
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_EQ(seen.back(), 1);
}

TEST(SimulatedData, OptionsThatCannotBeAreErrors) {
  SimulationOptions options = small();
  options.test_runs = 3;
  EXPECT_THROW(simulate(options, std::nullopt), c10::Error);
  options = small();
  options.last_day = 1;
  EXPECT_THROW(simulate(options, std::nullopt), c10::Error);
}

class SimulatedDataCut : public ::testing::TestWithParam<int> {};

TEST_P(SimulatedDataCut, EqualsTheUncutData) {
  const DataSet whole = simulate(small(), std::nullopt);
  support::run_ranks(GetParam(), [&](const comm::Domain& domain) {
    const DataSet own = simulate(small(), domain);
    const int64_t first = own.offsets[domain.rank()], rows = own.offsets[domain.rank() + 1] - first;
    const auto expect_close = [&](const at::Tensor& part, const at::Tensor& all) {
      EXPECT_TRUE(at::allclose(part, all.narrow(3, first, rows), 1e-12, 1e-10));
    };
    EXPECT_EQ(own.latitudes, whole.latitudes);
    expect_close(own.training.inputs, whole.training.inputs);
    expect_close(own.training.targets, whole.training.targets);
    expect_close(own.test.baseline, whole.test.baseline);
    expect_close(own.test.targets, whole.test.targets);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, SimulatedDataCut, ::testing::Values(2, 3, 5));

}  // namespace
}  // namespace graticule::apps

#include "shallow_water.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "initial_states.hpp"
#include "support/threads.hpp"

namespace graticule::apps {
namespace {

constexpr double pi = std::numbers::pi;

ShallowWaterOptions options_for(int64_t rows, int64_t columns) {
  ShallowWaterOptions options;
  options.grid = {rows, columns};
  return options;
}

at::Tensor area_weights(const SphereGrid& grid) {
  std::vector<double> weights;
  for (int64_t row = 0; row < grid.rows; ++row) weights.push_back(std::cos(grid.row_latitude(row)));
  const at::Tensor cosines = at::tensor(weights, at::kDouble).view({grid.rows, 1});
  return cosines / (cosines.sum() * static_cast<double>(grid.columns));
}

// Relative error of the height in the L2 norm over the sphere after a day of the steady flow.
double steady_flow_error(int64_t rows, double axis_angle) {
  ShallowWaterOptions options = options_for(rows, 2 * rows);
  options.axis_angle = axis_angle;
  const ShallowWater model(options, std::nullopt);
  const at::Tensor start = steady_flow(options.grid, 0, rows, axis_angle);
  const at::Tensor end = model.advance(start, seconds_a_day);
  const at::Tensor weights = area_weights(options.grid);
  const at::Tensor exact = start[0][0];
  return std::sqrt(((end[0][0] - exact).square() * weights).sum().item<double>() /
                   (exact.square() * weights).sum().item<double>());
}

void expect_second_order(double axis_angle) {
  const double coarse = steady_flow_error(20, axis_angle);
  const double middle = steady_flow_error(40, axis_angle);
  const double fine = steady_flow_error(80, axis_angle);
  ::testing::Test::RecordProperty("coarse_order", std::to_string(std::log2(coarse / middle)));
  ::testing::Test::RecordProperty("fine_order", std::to_string(std::log2(middle / fine)));
  EXPECT_LT(coarse, 5e-3);
  EXPECT_GE(std::log2(coarse / middle), 1.8) << coarse << " " << middle;
  EXPECT_GE(std::log2(middle / fine), 1.8) << middle << " " << fine;
}

at::Tensor own_rows(const at::Tensor& whole, const ShallowWater& model) {
  return whole.narrow(2, model.first_row(), model.local_rows());
}

// The largest difference of own rows from the whole grid's, each field by its largest value on the whole grid.
double relative_difference(const at::Tensor& own, const at::Tensor& whole, const ShallowWater& model) {
  if (own.numel() == 0) return 0;
  const at::Tensor difference = (own - own_rows(whole, model)).abs().amax({1, 2, 3});
  return (difference / whole.abs().amax({1, 2, 3})).max().item<double>();
}

double eddy_kinetic_energy(const at::Tensor& fields, const SphereGrid& grid) {
  const at::Tensor u = fields[1][0], v = fields[2][0];
  const at::Tensor eddies = (u - u.mean(1, true)).square() + v.square();
  return (eddies * area_weights(grid)).sum().item<double>() / 2;
}

TEST(ShallowWater, SteadyFlowAlongTheRowsConvergesAtSecondOrder) { expect_second_order(0); }

TEST(ShallowWater, SteadyFlowOverThePolesConvergesAtSecondOrder) { expect_second_order(pi / 4); }

TEST(ShallowWater, TendencyOfTheHeightKeepsTheMass) {
  const ShallowWater model(options_for(31, 60), std::nullopt);
  at::manual_seed(1);
  at::Tensor fields = at::randn({3, 2, 31, 60}, at::kDouble);
  fields[0] += 1000;
  const at::Tensor change = model.mean_height(model.tendency(fields));
  const double largest = model.tendency(fields)[0].abs().max().item<double>();
  EXPECT_LT(change.abs().max().item<double>(), 1e-14 * largest);
}

TEST(ShallowWater, MassStaysOverADayOfTheJet) {
  ShallowWaterOptions options = options_for(45, 90);
  options.diffusion_time = 24 * 3600;
  const ShallowWater model(options, std::nullopt);
  const at::Tensor start = unstable_jet(options.grid, 0, 45, {HeightBump{}});
  const double before = model.mean_height(start).item<double>();
  const double after = model.mean_height(model.advance(start, seconds_a_day)).item<double>();
  EXPECT_NEAR(after / before, 1, 1e-13);
}

TEST(ShallowWater, TheJetIsUnstable) {
  ShallowWaterOptions options = options_for(61, 120);
  options.diffusion_time = 24 * 3600;
  const ShallowWater model(options, std::nullopt);
  const at::Tensor start = unstable_jet(options.grid, 0, 61, {HeightBump{}});
  const at::Tensor second_day = model.advance(start, 2 * seconds_a_day);
  const at::Tensor sixth_day = model.advance(second_day, 4 * seconds_a_day);
  EXPECT_TRUE(sixth_day.isfinite().all().item<bool>());
  const double early = eddy_kinetic_energy(second_day, options.grid);
  const double late = eddy_kinetic_energy(sixth_day, options.grid);
  ::testing::Test::RecordProperty("growth", std::to_string(late / early));
  EXPECT_GT(late, 100 * early);
  EXPECT_GT(sixth_day[2].abs().max().item<double>(), 15);
}

TEST(ShallowWater, AFlowThatBlewUpIsAnError) {
  const ShallowWater model(options_for(8, 8), std::nullopt);
  EXPECT_THROW(static_cast<void>(model.stable_step(at::full({3, 1, 8, 8}, NAN, at::kDouble))), c10::Error);
}

TEST(ShallowWater, GridsThatCannotBeAreErrors) {
  EXPECT_THROW(ShallowWater(options_for(8, 7), std::nullopt), c10::Error);
  EXPECT_THROW(ShallowWater(options_for(3, 8), std::nullopt), c10::Error);
  ShallowWaterOptions options = options_for(8, 8);
  options.offsets = {0, 4, 8};
  EXPECT_THROW(ShallowWater(options, std::nullopt), c10::Error);
}

struct Cut {
  int64_t rows;
  std::vector<int64_t> offsets;
};

class ShallowWaterCut : public ::testing::TestWithParam<Cut> {};

TEST_P(ShallowWaterCut, EqualsTheUncutFlowAfterADay) {
  const Cut& cut = GetParam();
  ShallowWaterOptions options = options_for(cut.rows, 40);
  options.axis_angle = 0.3;
  options.diffusion_time = 12 * 3600;
  const at::Tensor start = unstable_jet(options.grid, 0, cut.rows, {HeightBump{}, HeightBump{-80, 2, 1.2}});
  const ShallowWater whole(options, std::nullopt);
  const at::Tensor end = whole.advance(start, seconds_a_day);
  const at::Tensor centred = whole.centred(end);
  options.offsets = cut.offsets;
  support::run_ranks(static_cast<int>(cut.offsets.size()) - 1, [&](const comm::Domain& domain) {
    const ShallowWater model(options, domain);
    const at::Tensor own = model.advance(own_rows(start, model), seconds_a_day);
    EXPECT_LT(relative_difference(own, end, model), 1e-12);
    EXPECT_LT(relative_difference(model.centred(own), centred, model), 1e-12);
    EXPECT_TRUE(at::allclose(model.mean_height(own), whole.mean_height(end), 1e-14));
  });
}

INSTANTIATE_TEST_SUITE_P(Cuts, ShallowWaterCut,
                         ::testing::Values(Cut{20, {0, 20}}, Cut{20, {0, 10, 20}}, Cut{21, {0, 10, 21}},
                                           Cut{21, {0, 1, 13, 21}}, Cut{21, {0, 2, 3, 4, 20, 21}},
                                           Cut{19, {0, 3, 7, 11, 15, 19}}, Cut{20, {0, 0, 12, 20}}));

}  // namespace
}  // namespace graticule::apps

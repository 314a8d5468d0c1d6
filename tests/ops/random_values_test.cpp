// Random numbers by position: the published answers, any cut the same, and the distributions' moments.
#include "ops/random_values.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "ops/philox.hpp"
#include "support/errors.hpp"

namespace graticule::ops {
namespace {

using support::contains;
using support::error_of;

// Random123's known answers for philox4x32, 10 rounds.
static_assert(philox({0, 0, 0, 0}, {0, 0}) == PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
static_assert(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
              PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
static_assert(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
              PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});

at::Tensor drawn(at::IntArrayRef sizes, at::ScalarType dtype, const std::string& distribution, double a, double b,
                 int64_t seed = 17) {
  at::Tensor x = at::empty(sizes, dtype);
  random_values_(x, x.strides(), 0, seed, distribution, a, b);
  return x;
}

TEST(RandomValues, ArePublishedBits) {
  const at::Tensor x = drawn({2}, at::kLong, "bits", 0, 0, 0);
  EXPECT_EQ(static_cast<uint64_t>(x[0].item<int64_t>()), 0xe169c58d6627e8d5u);
  EXPECT_EQ(static_cast<uint64_t>(x[1].item<int64_t>()), 0x9b00dbd8bc57ac4cu);
}

TEST(RandomValues, AreThoseOfThePositionsInEveryCut) {
  for (const auto* distribution : {"uniform", "normal", "bernoulli", "exponential", "cauchy", "log_normal"}) {
    for (const auto dtype : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16}) {
      const at::Tensor whole = drawn({3, 7, 5}, dtype, distribution, 0.25, 0.75);
      for (int64_t dim = 0; dim < 3; ++dim) {
        for (int64_t begin = 0; begin < whole.size(dim); ++begin) {
          at::Tensor part = at::empty_like(whole.narrow(dim, begin, whole.size(dim) - begin));
          random_values_(part, whole.strides(), begin * whole.stride(dim), 17, distribution, 0.25, 0.75);
          EXPECT_TRUE(at::equal(part, whole.narrow(dim, begin, part.size(dim)))) << distribution << dtype;
        }
      }
    }
  }
}

TEST(RandomValues, FillStridedAndComplexTensors) {
  const at::Tensor whole = drawn({4, 6}, at::kDouble, "normal", 0, 1);
  at::Tensor strided = at::empty({6, 4}, at::kDouble).t();
  random_values_(strided, {6, 1}, 0, 17, "normal", 0, 1);
  EXPECT_TRUE(at::equal(strided, whole));
  at::Tensor complex = at::empty({4, 3}, at::kComplexDouble);
  random_values_(complex, {3, 1}, 0, 17, "normal", 0, 1);
  EXPECT_TRUE(at::equal(at::view_as_real(complex).reshape({4, 6}), whole));
}

TEST(RandomValues, HaveTheirMoments) {
  const int64_t n = 400000;
  const auto expect = [&](const std::string& distribution, double a, double b, double mean, double deviation) {
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      const at::Tensor x = drawn({n}, dtype, distribution, a, b).to(at::kDouble);
      const double error = 6 * deviation / std::sqrt(static_cast<double>(n));
      EXPECT_NEAR(x.mean().item<double>(), mean, error) << distribution;
      EXPECT_NEAR(x.std().item<double>(), deviation, 0.02 * deviation) << distribution;
      // Neighbours have nothing to do with each other.
      const at::Tensor centred = x - mean;
      EXPECT_NEAR((centred.slice(0, 1) * centred.slice(0, 0, n - 1)).mean().item<double>(), 0,
                  6 * deviation * deviation / std::sqrt(static_cast<double>(n)))
          << distribution;
    }
  };
  expect("uniform", -1, 3, 1, 4 / std::sqrt(12.0));
  expect("normal", 2, 3, 2, 3);
  expect("bernoulli", 0.3, 0, 0.3, std::sqrt(0.21));
  expect("exponential", 2, 0, 0.5, 0.5);
  expect("geometric", 0.25, 0, 4, std::sqrt(12.0));
  expect("log_normal", 0, 0.5, std::exp(0.125), std::sqrt((std::exp(0.25) - 1) * std::exp(0.25)));
  EXPECT_NEAR(drawn({n}, at::kDouble, "cauchy", 1, 2).median().item<double>(), 1, 0.05);
  EXPECT_LT(drawn({n}, at::kHalf, "uniform", 0, 1).max().item<double>(), 1);
}

TEST(RandomValues, RefuseWhatIsNone) {
  at::Tensor x = at::empty({2, 2}, at::kLong);
  EXPECT_TRUE(contains(error_of([&] { random_values_(x, {2, 1}, 0, 0, "triangle", 0, 1); }), "triangle"));
  EXPECT_TRUE(contains(error_of([&] { random_values_(x, {1}, 0, 0, "bits", 0, 1); }), "expected 2 strides"));
  EXPECT_FALSE(error_of([&] { random_values_(x, {2, 1}, 0, 0, "normal", 0, 1); }).empty());
  at::Tensor reals = at::empty({2, 2});
  EXPECT_TRUE(contains(error_of([&] { random_values_(reals, {2, 1}, 0, 0, "bits", 0, 1); }), "int64"));
}

}  // namespace
}  // namespace graticule::ops

// Interpolation of a cut tensor against ATen's.
#include "graticule/ops/interpolate.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "graticule/comm/exchange.hpp"
#include "support/compare.hpp"

namespace graticule::ops {
namespace {

using comm::Domain;
using support::Called;
using support::expect_uncut;
using support::random_like;
using support::run_ranks;

using Ints = std::vector<int64_t>;
using Scales = std::optional<at::ArrayRef<double>>;

at::Tensor uncut(const at::Tensor& x, const InterpolateArguments& a) {
  const bool by_size = !a.size.empty();
  const at::OptionalIntArrayRef size = by_size ? at::OptionalIntArrayRef(a.size) : std::nullopt;
  const Scales scales = by_size ? std::nullopt : Scales(a.scale_factor);
  const bool align = a.align_corners.value_or(false);
  if (a.mode == "linear") return at::upsample_linear1d(x, size, align, scales);
  if (a.mode == "trilinear") return at::upsample_trilinear3d(x, size, align, scales);
  if (a.mode == "bilinear") {
    return a.antialias ? at::_upsample_bilinear2d_aa(x, size, align, scales)
                       : at::upsample_bilinear2d(x, size, align, scales);
  }
  if (a.mode == "bicubic") {
    return a.antialias ? at::_upsample_bicubic2d_aa(x, size, align, scales)
                       : at::upsample_bicubic2d(x, size, align, scales);
  }
  if (a.mode == "area") return at::adaptive_avg_pool2d(x, a.size);
  return a.mode == "nearest" ? at::upsample_nearest2d(x, size, scales) : at::_upsample_nearest_exact2d(x, size, scales);
}

void check(const at::Tensor& x, const InterpolateArguments& a, int64_t dim, const Ints& offsets) {
  const auto layer = [&](const at::Tensor& t, const std::optional<Domain>& domain) -> Called {
    if (!domain.has_value()) return {uncut(t, a), {}};
    return {interpolate(t, a, {offsets, {}, dim, domain->name(), "Interpolate"}), {}};
  };
  const std::string to = a.size.empty() ? c10::str("by ", a.scale_factor) : c10::str("to ", a.size);
  expect_uncut(layer, x, {.name = c10::str(a.mode, " ", to), .dim = dim, .in_offsets = offsets});
}

const Ints cuts[] = {{0, 4, 9}, {0, 0, 9}, {0, 8, 8, 9}, {0, 1, 3, 4, 5, 9}};

TEST(Interpolate, EqualsATenInTwoDimensions) {
  const at::Tensor x = random_like({2, 3, 9, 6}, at::kDouble, 1);
  for (const std::string mode : {"nearest", "nearest-exact", "bilinear", "bicubic", "area"}) {
    for (const Ints& size : {Ints{18, 12}, Ints{13, 7}, Ints{5, 4}, Ints{9, 6}, Ints{1, 3}, Ints{31, 6}}) {
      for (const Ints& offsets : cuts) check(x, {.size = size, .mode = mode}, 2, offsets);
      check(x, {.size = size, .mode = mode}, 3, {0, 2, 2, 6});
    }
  }
}

TEST(Interpolate, EqualsATenWithEveryOption) {
  const at::Tensor x = random_like({2, 3, 9, 6}, at::kDouble, 1);
  for (const Ints& offsets : cuts) {
    for (const std::string mode : {"bilinear", "bicubic"}) {
      for (const Ints& size : {Ints{14, 9}, Ints{4, 3}}) {
        check(x, {.size = size, .mode = mode, .align_corners = true}, 2, offsets);
        check(x, {.size = size, .mode = mode, .antialias = true}, 2, offsets);
      }
      check(x, {.scale_factor = {1.7, 0.6}, .mode = mode}, 2, offsets);
    }
    for (const std::string mode : {"nearest", "nearest-exact"}) {
      check(x, {.scale_factor = {1.7, 2.3}, .mode = mode}, 2, offsets);
    }
  }
}

TEST(Interpolate, EqualsATenInOneAndThreeDimensions) {
  for (const Ints& offsets : cuts) {
    check(random_like({2, 3, 9}, at::kDouble, 1), {.size = {14}, .mode = "linear"}, 2, offsets);
    check(random_like({2, 3, 9}, at::kDouble, 1), {.scale_factor = {0.7}, .mode = "linear"}, 2, offsets);
    for (int64_t dim = 2; dim < 5; ++dim) {
      Ints sizes{2, 3, 4, 4, 4};
      sizes[dim] = 9;
      check(random_like(sizes, at::kDouble, 1), {.size = {7, 5, 6}, .mode = "trilinear"}, dim, offsets);
    }
  }
}

TEST(Interpolate, TellsMetaShapesWithoutAMessage) {
  const uint64_t before = comm::bytes_sent();
  run_ranks(2, [](const Domain& domain) {
    const at::Tensor x = at::empty({2, 3, 4 + domain.rank(), 6}, at::TensorOptions(at::kFloat).device(at::kMeta));
    const Cut cut{{0, 4, 9}, {}, 2, domain.name(), "Interpolate"};
    const at::Tensor y = interpolate(x, {.size = {18, 12}, .mode = "bilinear"}, cut);
    EXPECT_EQ(y.sizes(), (Ints{2, 3, 9, 12}));
    EXPECT_TRUE(y.is_meta());
  });
  EXPECT_EQ(comm::bytes_sent(), before);
}

}  // namespace
}  // namespace graticule::ops

// The other modules against torch::nn's.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/functional/upsampling.h>

#include "graticule/nn/group_norm.hpp"
#include "graticule/nn/halo_exchange.hpp"
#include "graticule/nn/interpolate.hpp"
#include "graticule/nn/periodic_conv.hpp"
#include "nn/copy.hpp"
#include "support/errors.hpp"

namespace graticule {
namespace {

namespace F = torch::nn::functional;

using comm::Domain;
using support::Called;
using support::close;
using support::contains;
using support::copy_of;
using support::error_of;
using support::expect_uncut;
using support::filled;
using support::random_like;
using support::run_ranks;
using support::shard;

using Ints = std::vector<int64_t>;

const Ints cuts[] = {{0, 11},       {0, 5, 11},    {0, 10, 11},         {0, 11, 11},
                     {0, 3, 7, 11}, {0, 1, 1, 11}, {0, 2, 4, 6, 8, 11}, {0, 0, 1, 6, 6, 11}};

TEST(DomainParallelGroupNorm, IsTheUncutModule) {
  for (const bool affine : {true, false}) {
    const auto options = torch::nn::GroupNormOptions(2, 6).affine(affine).eps(1e-3);
    const torch::nn::GroupNorm serial = filled(torch::nn::GroupNorm(options));
    const std::vector<std::tuple<Ints, int64_t, int64_t>> inputs{{{2, 6, 11}, 2, -2},       {{2, 6, 11}, 2, -1},
                                                                 {{2, 6, 11, 4}, 2, -2},    {{2, 6, 4, 11}, 3, 3},
                                                                 {{2, 6, 3, 11, 4}, 3, -2}, {{1, 6, 11, 2, 2}, 2, 2}};
    for (const auto& [sizes, dim, shard_dim] : inputs) {
      for (const Ints& offsets : cuts) {
        const auto layer = [&, along = shard_dim](const at::Tensor& x, const std::optional<Domain>& domain) -> Called {
          torch::nn::GroupNorm norm = copy_of(serial);
          if (!domain.has_value()) return {norm->forward(x), norm->parameters()};
          DomainParallelGroupNorm cut(norm, along, domain);
          return {cut->forward(x), norm->parameters()};
        };
        expect_uncut(layer, random_like(sizes, at::kDouble, 1),
                     {.name = "GroupNorm", .dim = dim, .in_offsets = offsets});
      }
    }
  }
}

TEST(DomainParallelGroupNorm, HasTheModulesAttributes) {
  torch::nn::GroupNorm norm(torch::nn::GroupNormOptions(2, 6).eps(1e-3));
  DomainParallelGroupNorm cut(norm);
  EXPECT_EQ(cut->num_groups, 2);
  EXPECT_EQ(cut->num_channels, 6);
  EXPECT_EQ(cut->eps, 1e-3);
  EXPECT_TRUE(cut->affine);
  EXPECT_TRUE(cut->weight().is_same(norm->weight));
  EXPECT_TRUE(cut->bias().is_same(norm->bias));
  EXPECT_EQ(cut->named_parameters().keys(), (std::vector<std::string>{"norm.weight", "norm.bias"}));
  run_ranks(2, [&](const Domain& domain) {
    DomainParallelGroupNorm wrong(copy_of(norm), 1, domain);
    EXPECT_TRUE(contains(error_of([&] { wrong->forward(at::ones({1, 6, 3, 4})); }),
                         "DomainParallelGroupNorm: shard_dim 1 is not a spatial dimension"));
  });
}

PeriodicConv2d copy_of_periodic(const PeriodicConv2d& serial, int64_t kernel) {
  PeriodicConv2d copy(4, 3, kernel, serial->padding);
  copy->to(at::kDouble);
  const at::NoGradGuard no_grad;
  copy->conv->weight.copy_(serial->conv->weight);
  copy->conv->bias.copy_(serial->conv->bias);
  return copy;
}

TEST(DomainParallelPeriodicConv2d, IsTheUncutModule) {
  for (const auto& [kernel, padding] : {std::pair<int64_t, int64_t>{3, 1}, {5, 2}, {3, 0}, {2, 1}, {3, 4}}) {
    const PeriodicConv2d serial = filled(PeriodicConv2d(4, 3, kernel, padding));
    for (const bool batched : {true, false}) {
      for (const Ints& offsets : cuts) {
        const auto layer = [&, k = kernel](const at::Tensor& x, const std::optional<Domain>& domain) -> Called {
          PeriodicConv2d conv = copy_of_periodic(serial, k);
          if (!domain.has_value()) return {conv->forward(x), conv->parameters()};
          DomainParallelPeriodicConv2d cut(conv, -2, domain);
          return {cut->forward(x), conv->parameters()};
        };
        const Ints sizes = batched ? Ints{2, 4, 11, 6} : Ints{4, 11, 6};
        expect_uncut(layer, random_like(sizes, at::kDouble, 1),
                     {.name = "PeriodicConv2d", .dim = batched ? 2 : 1, .in_offsets = offsets});
      }
    }
  }
}

TEST(DomainParallelPeriodicConv2d, HasTheModulesAttributes) {
  PeriodicConv2d conv(4, 3, 5, 2);
  DomainParallelPeriodicConv2d cut(conv);
  EXPECT_EQ(cut->padding, 2);
  EXPECT_EQ(cut->halo_exchange.halo_width, 2);
  EXPECT_TRUE(cut->weight().is_same(conv->conv->weight));
  EXPECT_TRUE(cut->bias().is_same(conv->conv->bias));
  EXPECT_EQ(cut->named_parameters().keys(), conv->named_parameters().keys());
  EXPECT_EQ(cut->named_parameters().keys(), (std::vector<std::string>{"conv.weight", "conv.bias"}));
}

void check_interpolation(const InterpolateOptions& options, const F::InterpolateFuncOptions& serial, const Ints& sizes,
                         int64_t dim) {
  for (const Ints& offsets : cuts) {
    const auto layer = [&](const at::Tensor& x, const std::optional<Domain>& domain) -> Called {
      if (!domain.has_value()) return {F::interpolate(x, serial), {}};
      return {DomainParallelInterpolate(options, dim, domain)->forward(x), {}};
    };
    expect_uncut(layer, random_like(sizes, at::kDouble, 1),
                 {.name = "Interpolate " + options.mode, .dim = dim, .in_offsets = offsets});
  }
}

TEST(DomainParallelInterpolate, IsTheUncutFunction) {
  using Options = F::InterpolateFuncOptions;
  const Ints image{2, 3, 11, 6};
  const Ints size{17, 9};
  check_interpolation({.size = size}, Options().size(size).mode(torch::kBilinear).align_corners(false), image, 2);
  check_interpolation({.size = {7}}, Options().size(Ints{7, 7}).mode(torch::kBilinear).align_corners(false), image, 2);
  check_interpolation({.size = size, .align_corners = true},
                      Options().size(size).mode(torch::kBilinear).align_corners(true), image, 2);
  check_interpolation({.size = {5, 4}, .antialias = true},
                      Options().size(Ints{5, 4}).mode(torch::kBilinear).align_corners(false).antialias(true), image, 2);
  check_interpolation({.scale_factor = {1.5, 2}, .mode = "bicubic"},
                      Options()
                          .scale_factor(std::vector<double>{1.5, 2})
                          .recompute_scale_factor(false)
                          .mode(torch::kBicubic)
                          .align_corners(false),
                      image, 2);
  check_interpolation({.scale_factor = {2}, .mode = "nearest"},
                      Options().scale_factor(std::vector<double>{2, 2}).mode(torch::kNearest), image, 2);
  check_interpolation({.size = size, .mode = "nearest-exact"},
                      Options().size(size).mode(torch::kNearestExact).align_corners(false), image, 2);
  check_interpolation({.size = {5, 3}, .mode = "area"}, Options().size(Ints{5, 3}).mode(torch::kArea), image, 2);
  check_interpolation({.size = size}, Options().size(size).mode(torch::kBilinear).align_corners(false), {2, 3, 6, 11},
                      3);
  check_interpolation({.size = {17}, .mode = "linear"},
                      Options().size(Ints{17}).mode(torch::kLinear).align_corners(false), {2, 3, 11}, 2);
  check_interpolation({.size = {3, 17, 5}, .mode = "trilinear"},
                      Options().size(Ints{3, 17, 5}).mode(torch::kTrilinear).align_corners(false), {2, 3, 4, 11, 6}, 3);
}

TEST(DomainParallelInterpolate, WithoutADomainIsTheUncutFunction) {
  const at::Tensor x = random_like({2, 3, 11, 6}, at::kDouble, 1);
  DomainParallelInterpolate layer(Ints{17, 9});
  EXPECT_EQ(layer->mode, "bilinear");
  EXPECT_EQ(layer->size, (Ints{17, 9}));
  EXPECT_EQ(layer->halo_exchange.halo_width, 1);
  const auto options = F::InterpolateFuncOptions().size(Ints{17, 9}).mode(torch::kBilinear).align_corners(false);
  EXPECT_TRUE(at::equal(layer->forward(x), F::interpolate(x, options)));
  EXPECT_TRUE(contains(error_of([] { DomainParallelInterpolate(Ints{4, 4}, "lanczos"); }),
                       "DomainParallelInterpolate: expected mode nearest"));
}

TEST(HaloExchange, AddsRowsOfOtherRanksAndZeros) {
  for (const Ints& offsets : cuts) {
    for (const int64_t width : {1, 3, 13}) {
      for (const auto& [sizes, dim] : std::vector<std::pair<Ints, int64_t>>{{{2, 3, 11, 4}, 2},
                                                                            {{3, 11, 4}, 1},
                                                                            {{11, 4}, 0},
                                                                            {{11}, 0},
                                                                            {{2, 3, 4, 11}, 3},
                                                                            {{11, 2, 3, 2, 2}, 0}}) {
        const at::Tensor whole = random_like(sizes, at::kDouble, 1).requires_grad_();
        const at::Tensor moved = whole.movedim(dim, -1);
        const at::Tensor padded = at::constant_pad_nd(moved, {width, width}).movedim(-1, dim);
        const int ranks = static_cast<int>(offsets.size()) - 1;
        std::vector<at::Tensor> expected;
        at::Tensor loss = whole.sum() * 0;
        for (int rank = 0; rank < ranks; ++rank) {
          expected.push_back(padded.narrow(dim, offsets[rank], offsets[rank + 1] - offsets[rank] + 2 * width));
          loss = loss + (expected.back() * random_like(expected.back().sizes(), at::kDouble, rank)).sum();
        }
        loss.backward();
        const int64_t axis = dim;
        const int64_t from_the_end = dim - static_cast<int64_t>(sizes.size());
        run_ranks(ranks, [&](const Domain& domain) {
          const int rank = domain.rank();
          for (const int64_t given : {axis, from_the_end}) {
            HaloExchange exchange(width, given, domain);
            const at::Tensor own = shard(whole, axis, offsets, rank).requires_grad_();
            const at::Tensor y = exchange.forward(own);
            if (ranks == 1) {
              EXPECT_TRUE(y.is_same(own)) << "one rank needs no halo";
              continue;
            }
            EXPECT_TRUE(at::equal(y, expected[rank])) << "offsets " << c10::IntArrayRef(offsets);
            y.backward(random_like(y.sizes(), at::kDouble, rank));
            EXPECT_TRUE(close(own.grad(), shard(whole.grad(), axis, offsets, rank), 1e-12));
            EXPECT_TRUE(at::equal(HaloExchange::trim(y, width, width, given), own));
          }
        });
      }
    }
  }
}

TEST(HaloExchange, OfNoWidthOrWithoutADomainGivesItsInput) {
  const at::Tensor x = at::ones({1, 1, 3, 3});
  EXPECT_TRUE(HaloExchange(2).forward(x).is_same(x));
  run_ranks(2, [&](const Domain& domain) { EXPECT_TRUE(HaloExchange(0, -2, domain).forward(x).is_same(x)); });
  EXPECT_TRUE(
      contains(error_of([] { HaloExchange(-1); }), "HaloExchange: expected a halo_width of at least 0, got -1"));
  EXPECT_TRUE(at::equal(HaloExchange::trim(at::arange(6), 1, 2, 0), at::arange(1, 4)));
}

}  // namespace
}  // namespace graticule

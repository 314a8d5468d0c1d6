// The convolution modules against torch::nn's.
#include "graticule/nn/conv.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "nn/copy.hpp"
#include "support/errors.hpp"

namespace graticule {
namespace {

using comm::Domain;
using support::Called;
using support::contains;
using support::copy_of;
using support::error_of;
using support::expect_uncut;
using support::filled;
using support::random_like;
using support::run_ranks;

using Ints = std::vector<int64_t>;

// 1, 2, 3 and 5 ranks; 11 rows, balanced and not, and shards of no rows.
const Ints cuts[] = {{0, 11},       {0, 5, 11},    {0, 10, 11},         {0, 11, 11},
                     {0, 3, 7, 11}, {0, 1, 1, 11}, {0, 2, 4, 6, 8, 11}, {0, 0, 1, 6, 6, 11}};

template <typename Cut, typename Conv>
Called call(const Conv& serial, const at::Tensor& x, const std::optional<Domain>& domain, int64_t shard_dim) {
  Conv conv = copy_of(serial);
  if (!domain.has_value()) return {conv->forward(x), conv->parameters()};
  Cut cut(conv, shard_dim, domain);
  return {cut->forward(x), conv->parameters()};
}

// `dim` holds the 11 rows of an input of 4 channels, batched or not.
template <typename Cut, typename Conv>
void check(const std::string& name, const Conv& conv, int64_t spatial_dims, int64_t dim, int64_t shard_dim) {
  for (const bool batched : {true, false}) {
    Ints sizes{2, 4};
    for (int64_t d = 2; d < spatial_dims + 2; ++d) sizes.push_back(d == dim ? 11 : 6);
    if (!batched) sizes.erase(sizes.begin());
    for (const Ints& offsets : cuts) {
      const auto layer = [&](const at::Tensor& x, const std::optional<Domain>& domain) {
        return call<Cut>(conv, x, domain, shard_dim);
      };
      expect_uncut(
          layer, random_like(sizes, at::kDouble, 1),
          {.name = name + (batched ? "" : ", unbatched"), .dim = batched ? dim : dim - 1, .in_offsets = offsets});
    }
  }
}

TEST(DomainParallelConv1d, IsTheUncutModule) {
  using Options = torch::nn::Conv1dOptions;
  const Options options[] = {Options(4, 6, 3).padding(1), Options(4, 6, 4).stride(2).padding(3).groups(2),
                             Options(4, 6, 5).dilation(2).padding(torch::kSame).padding_mode(torch::kReflect),
                             Options(4, 6, 2).stride(3).bias(false), Options(4, 6, 3).padding(torch::kValid)};
  for (const Options& o : options) {
    const torch::nn::Conv1d conv = filled(torch::nn::Conv1d(o));
    check<DomainParallelConv1d>("Conv1d", conv, 1, 2, -1);
  }
}

TEST(DomainParallelConv2d, IsTheUncutModule) {
  using Options = torch::nn::Conv2dOptions;
  const Options options[] = {Options(4, 6, 3).padding(1),
                             Options(4, 4, 7).padding(3).groups(4),
                             Options(4, 6, 4).stride(2).padding(1).padding_mode(torch::kCircular),
                             Options(4, 6, 3).stride(2).padding(2).padding_mode(torch::kReplicate),
                             Options(4, 6, {3, 2}).dilation({2, 1}).padding({4, 0}),
                             Options(4, 6, 2).padding(torch::kSame)};
  for (const Options& o : options) {
    const torch::nn::Conv2d conv = filled(torch::nn::Conv2d(o));
    check<DomainParallelConv2d>("Conv2d", conv, 2, 2, -2);
    check<DomainParallelConv2d>("Conv2d along its columns", conv, 2, 3, -1);
  }
}

TEST(DomainParallelConv3d, IsTheUncutModule) {
  using Options = torch::nn::Conv3dOptions;
  for (const Options& o :
       {Options(4, 2, 3).padding(1), Options(4, 2, {1, 4, 2}).stride({1, 2, 2}).padding({0, 2, 1})}) {
    const torch::nn::Conv3d conv = filled(torch::nn::Conv3d(o));
    check<DomainParallelConv3d>("Conv3d", conv, 3, 3, 3);
    check<DomainParallelConv3d>("Conv3d along its depth", conv, 3, 2, 2);
    check<DomainParallelConv3d>("Conv3d along its columns", conv, 3, 4, -1);
  }
}

TEST(DomainParallelConvTranspose1d, IsTheUncutModule) {
  using Options = torch::nn::ConvTranspose1dOptions;
  for (const Options& o : {Options(4, 6, 4).stride(2).padding(1), Options(4, 6, 3).stride(3).output_padding(2)}) {
    const torch::nn::ConvTranspose1d conv = filled(torch::nn::ConvTranspose1d(o));
    check<DomainParallelConvTranspose1d>("ConvTranspose1d", conv, 1, 2, -1);
  }
}

TEST(DomainParallelConvTranspose2d, IsTheUncutModule) {
  using Options = torch::nn::ConvTranspose2dOptions;
  const Options options[] = {Options(4, 6, 4).stride(2).padding(1), Options(4, 6, 3).padding(2).groups(2),
                             Options(4, 6, 2).stride(2), Options(4, 6, 3).stride(2).dilation(2).output_padding(1),
                             Options(4, 6, {5, 1}).stride({3, 1}).padding({1, 0}).bias(false)};
  for (const Options& o : options) {
    const torch::nn::ConvTranspose2d conv = filled(torch::nn::ConvTranspose2d(o));
    check<DomainParallelConvTranspose2d>("ConvTranspose2d", conv, 2, 2, -2);
    check<DomainParallelConvTranspose2d>("ConvTranspose2d along its columns", conv, 2, 3, 3);
  }
}

TEST(DomainParallelConvTranspose3d, IsTheUncutModule) {
  using Options = torch::nn::ConvTranspose3dOptions;
  for (const Options& o : {Options(4, 2, {1, 4, 4}).stride({1, 2, 2}).padding({0, 1, 1}), Options(4, 2, 3)}) {
    const torch::nn::ConvTranspose3d conv = filled(torch::nn::ConvTranspose3d(o));
    check<DomainParallelConvTranspose3d>("ConvTranspose3d", conv, 3, 3, 3);
    check<DomainParallelConvTranspose3d>("ConvTranspose3d along its depth", conv, 3, 2, -3);
  }
}

TEST(DomainParallelConvTranspose2d, TakesTheWholeGridsOutputSize) {
  const auto options = torch::nn::ConvTranspose2dOptions(4, 6, 3).stride(2).padding(1);
  const auto serial = filled(torch::nn::ConvTranspose2d(options));
  // torch's modules in C++ work out what is missing from the size as if nothing were dilated.
  const auto dilated = filled(torch::nn::ConvTranspose2d(torch::nn::ConvTranspose2dOptions(options).dilation(2)));
  for (const auto& [of, size] : {std::pair{serial, Ints{21, 11}}, {serial, Ints{22, 12}}, {dilated, Ints{22, 11}}}) {
    for (const Ints& offsets : cuts) {
      const auto layer = [&, of = of, size = size](const at::Tensor& x, const std::optional<Domain>& domain) -> Called {
        auto conv = copy_of(of);
        if (!domain.has_value()) return {conv->forward(x, size), conv->parameters()};
        DomainParallelConvTranspose2d cut(conv, -2, domain);
        return {cut->forward(x, size), conv->parameters()};
      };
      expect_uncut(layer, random_like({2, 4, 11, 6}, at::kDouble, 1), {.name = "output_size", .in_offsets = offsets});
    }
  }
  run_ranks(2, [&](const Domain& domain) {
    DomainParallelConvTranspose2d cut(copy_of(serial), -2, domain);
    const at::Tensor x = random_like({2, 4, 5, 6}, at::kDouble, 1);
    EXPECT_TRUE(contains(error_of([&] { cut->forward(x, Ints{30, 11}); }), "an output_size of 19 to 20"));
    EXPECT_TRUE(contains(error_of([&] { cut->forward(x, Ints{19}); }), "an output_size of 2 or 4 values, got 1"));
  });
}

TEST(DomainParallelConvTranspose2d, RefusesAStrideOfZero) {
  const torch::nn::ConvTranspose2d conv(torch::nn::ConvTranspose2dOptions(4, 6, 3).stride(0));
  EXPECT_TRUE(contains(error_of([&] { DomainParallelConvTranspose2d cut(conv); }),
                       "DomainParallelConvTranspose2d: expected every stride to be at least 1, got [0, 0]"));
}

int64_t halo(int64_t kernel, int64_t stride, int64_t padding, int64_t dilation = 1) {
  const auto options = torch::nn::Conv2dOptions(1, 1, kernel).stride(stride).padding(padding).dilation(dilation);
  return DomainParallelConv2d(torch::nn::Conv2d(options))->halo_exchange.halo_width;
}

TEST(ConvAttributes, HaloWidthIsWhatTheWiderSideNeeds) {
  EXPECT_EQ(halo(3, 1, 1), 1);
  EXPECT_EQ(halo(7, 1, 3), 3);
  EXPECT_EQ(halo(3, 1, 2, 2), 2);
  EXPECT_EQ(halo(32, 2, 15), 15);
  EXPECT_EQ(halo(2, 2, 0), 0);
  EXPECT_EQ(halo(1, 1, 0), 0);
  const auto transposed = torch::nn::ConvTranspose2dOptions(1, 1, 4).stride(2).padding(1);
  DomainParallelConvTranspose2d up{torch::nn::ConvTranspose2d(transposed)};
  EXPECT_EQ(up->halo_width, 1);
  EXPECT_EQ(up->halo_exchange.halo_width, 1);
  EXPECT_EQ(
      DomainParallelConvTranspose2d(torch::nn::ConvTranspose2d(torch::nn::ConvTranspose2dOptions(1, 1, 2).stride(2)))
          ->halo_width,
      0);
}

TEST(DomainParallelConv2d, PadsToTheSameSizeByTheWeightThatItHas) {
  torch::nn::Conv2d conv(torch::nn::Conv2dOptions(2, 3, 3).padding(torch::kSame));
  conv->to(torch::kFloat64);
  conv->weight = torch::nn::init::normal_(at::empty({3, 2, 5, 5}, at::kDouble));
  const at::Tensor x = random_like({1, 2, 11, 6}, at::kDouble, 1);
  const at::Tensor expected = conv->forward(x);
  std::vector<at::Tensor> parts(2);
  run_ranks(2, [&](const Domain& domain) {
    const int64_t begin = domain.rank() == 0 ? 0 : 5;
    const at::Tensor own = x.narrow(2, begin, domain.rank() == 0 ? 5 : 6);
    parts[domain.rank()] = DomainParallelConv2d(conv, -2, domain)->forward(own).detach();
  });
  EXPECT_LT((at::cat(parts, 2) - expected).abs().max().item<double>(), 1e-12);
}

TEST(ConvAttributes, ParametersAreTheWrappedModulesOwn) {
  torch::nn::Conv2d conv(torch::nn::Conv2dOptions(2, 3, 3));
  DomainParallelConv2d cut(conv);
  EXPECT_TRUE(cut->weight().is_same(conv->weight));
  EXPECT_TRUE(cut->bias().is_same(conv->bias));
  EXPECT_TRUE(cut->conv->weight.is_same(conv->weight));
  EXPECT_EQ(cut->named_parameters().keys(), (std::vector<std::string>{"conv.weight", "conv.bias"}));
  EXPECT_EQ(cut->shard_dim(), -2);
  EXPECT_EQ(cut->layer_name(), "DomainParallelConv2d");
  DomainParallelConvTranspose1d up{torch::nn::ConvTranspose1d(torch::nn::ConvTranspose1dOptions(2, 3, 3).bias(false))};
  EXPECT_EQ(up->named_parameters().keys(), (std::vector<std::string>{"conv.weight"}));
  EXPECT_FALSE(up->bias().defined());
  EXPECT_EQ(up->shard_dim(), -1);
  EXPECT_EQ(DomainParallelConv3d(torch::nn::Conv3d(torch::nn::Conv3dOptions(1, 1, 1)))->shard_dim(), 3);
}

TEST(ConvErrors, AShardDimThatIsNoSpatialOne) {
  for (const int64_t dim : {0, 1, 4, -3}) {
    const auto make = [&] { DomainParallelConv2d(torch::nn::Conv2d(torch::nn::Conv2dOptions(2, 3, 3)), dim); };
    EXPECT_TRUE(contains(error_of(make), c10::str("DomainParallelConv2d: shard_dim ", dim)));
    const auto make_up = [&] {
      DomainParallelConvTranspose2d(torch::nn::ConvTranspose2d(torch::nn::ConvTranspose2dOptions(2, 3, 3)), dim);
    };
    EXPECT_TRUE(contains(error_of(make_up), "DomainParallelConvTranspose2d: shard_dim"));
  }
}

TEST(ConvErrors, AnInputOfOtherDimensionsOrChannels) {
  run_ranks(2, [](const Domain& domain) {
    DomainParallelConv2d cut(torch::nn::Conv2d(torch::nn::Conv2dOptions(2, 3, 3)), -2, domain);
    EXPECT_TRUE(contains(error_of([&] { cut->forward(at::ones({1, 2, 3, 4, 5})); }),
                         "DomainParallelConv2d: expected an input of 4 dimensions, or 3 without a batch, got 5"));
    EXPECT_TRUE(contains(error_of([&] { cut->forward(at::ones({4, 4})); }), "got 2"));
    EXPECT_TRUE(contains(error_of([&] { cut->forward(at::ones({1, 3, 4, 4})); }), "an input of 2 channels, got 3"));
  });
}

}  // namespace
}  // namespace graticule

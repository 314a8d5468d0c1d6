// The layers over real MPI processes against the uncut ones.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "graticule/graticule.hpp"
#include "mpi/group.hpp"
#include "nn/copy.hpp"
#include "support/compare.hpp"

namespace graticule {
namespace {

using comm::Domain;
using support::Called;
using support::close;
using support::copy_of;
using support::expect_uncut_on;
using support::filled;
using support::random_like;
using support::shard;

using Ints = std::vector<int64_t>;
using Layers = support::OverMpi;

// Balanced and uneven cuts of `rows`, and one that leaves every rank but the last without any.
std::vector<Ints> cuts(int64_t rows, int ranks) {
  Ints uneven{0};
  for (int rank = 1; rank < ranks; ++rank) uneven.push_back(std::min<int64_t>(rank, rows));
  uneven.push_back(rows);
  Ints last(ranks, 0);
  last.push_back(rows);
  return {rows::Partition::balanced(rows, ranks).offsets(), uneven, last};
}

template <typename Cut, typename Module>
void check(const Domain& domain, const std::string& name, const Module& serial, const Ints& sizes, int64_t dim) {
  const auto layer = [&](const at::Tensor& x, const std::optional<Domain>& over) -> Called {
    Module module = copy_of(serial);
    if (!over.has_value()) return {module->forward(x), module->parameters()};
    return {Cut(module, dim, over)->forward(x), module->parameters()};
  };
  for (const Ints& offsets : cuts(sizes[dim], domain.size())) {
    expect_uncut_on(domain, layer, random_like(sizes, at::kDouble, 1),
                    {.name = name, .dim = dim, .in_offsets = offsets});
  }
}

TEST_F(Layers, Convolutions) {
  using torch::nn::Conv2dOptions;
  const Conv2dOptions options[] = {Conv2dOptions(3, 4, 3).padding(1), Conv2dOptions(3, 4, 5).stride(2).padding(2),
                                   Conv2dOptions(3, 4, 3).padding(1).padding_mode(torch::kCircular),
                                   Conv2dOptions(3, 3, 7).padding(3).groups(3)};
  for (const Conv2dOptions& o : options) {
    for (const int64_t rows : {1, 5, 37}) {
      const auto conv = filled(torch::nn::Conv2d(o));
      check<DomainParallelConv2d>(domain(), "Conv2d", conv, {2, 3, rows, 6}, 2);
    }
  }
  const auto conv1d = filled(torch::nn::Conv1d(torch::nn::Conv1dOptions(3, 4, 4).stride(3).padding(2)));
  check<DomainParallelConv1d>(domain(), "Conv1d", conv1d, {2, 3, 11}, 2);
  const auto conv3d = filled(torch::nn::Conv3d(torch::nn::Conv3dOptions(3, 2, 3).padding(1)));
  check<DomainParallelConv3d>(domain(), "Conv3d", conv3d, {2, 3, 3, 11, 4}, 3);
}

TEST_F(Layers, TransposedConvolutions) {
  using torch::nn::ConvTranspose2dOptions;
  const ConvTranspose2dOptions options[] = {ConvTranspose2dOptions(3, 4, 4).stride(2).padding(1),
                                            ConvTranspose2dOptions(3, 4, 3).stride(2).padding(1).output_padding(1),
                                            ConvTranspose2dOptions(3, 4, 2).stride(2)};
  for (const ConvTranspose2dOptions& o : options) {
    for (const int64_t rows : {1, 5, 19}) {
      const auto conv = filled(torch::nn::ConvTranspose2d(o));
      check<DomainParallelConvTranspose2d>(domain(), "ConvTranspose2d", conv, {2, 3, rows, 6}, 2);
    }
  }
  const auto options3d = torch::nn::ConvTranspose3dOptions(3, 2, {1, 4, 4}).stride({1, 2, 2}).padding({0, 1, 1});
  check<DomainParallelConvTranspose3d>(domain(), "ConvTranspose3d", filled(torch::nn::ConvTranspose3d(options3d)),
                                       {2, 3, 3, 11, 4}, 3);
}

TEST_F(Layers, GroupNorm) {
  for (const bool affine : {true, false}) {
    const auto norm = filled(torch::nn::GroupNorm(torch::nn::GroupNormOptions(2, 6).affine(affine)));
    for (const int64_t rows : {1, 5, 37}) {
      check<DomainParallelGroupNorm>(domain(), "GroupNorm", norm, {2, 6, rows, 4}, 2);
    }
  }
}

TEST_F(Layers, PeriodicConvolution) {
  const auto layer = [&](const at::Tensor& x, const std::optional<Domain>& over) -> Called {
    PeriodicConv2d conv = filled(PeriodicConv2d(3, 4, 5, 2));
    if (!over.has_value()) return {conv->forward(x), conv->parameters()};
    return {DomainParallelPeriodicConv2d(conv, -2, over)->forward(x), conv->parameters()};
  };
  for (const int64_t rows : {3, 8, 37}) {
    for (const Ints& offsets : cuts(rows, domain().size())) {
      expect_uncut_on(domain(), layer, random_like({2, 3, rows, 6}, at::kDouble, 1),
                      {.name = "PeriodicConv2d", .in_offsets = offsets});
    }
  }
}

TEST_F(Layers, Interpolation) {
  const InterpolateOptions options[] = {{.size = {23, 9}},
                                        {.size = {4, 9}, .antialias = true},
                                        {.size = {23, 9}, .align_corners = true},
                                        {.scale_factor = {1.7, 2}, .mode = "bicubic"},
                                        {.scale_factor = {2}, .mode = "nearest"},
                                        {.size = {5, 3}, .mode = "area"}};
  for (const InterpolateOptions& o : options) {
    const auto layer = [&](const at::Tensor& x, const std::optional<Domain>& over) -> Called {
      return {DomainParallelInterpolate(o, -2, over)->forward(x), {}};
    };
    for (const Ints& offsets : cuts(11, domain().size())) {
      expect_uncut_on(domain(), layer, random_like({2, 3, 11, 6}, at::kDouble, 1),
                      {.name = "Interpolate " + o.mode, .in_offsets = offsets});
    }
  }
}

// Three rows on either side, seen across the poles, by plain indexing.
at::Tensor with_poles(const at::Tensor& whole, bool row_on_pole, bool flip_sign) {
  const int64_t skip = row_on_pole ? 1 : 0;
  const int64_t rows = whole.size(1);
  const auto across = [&](const at::Tensor& t) {
    const at::Tensor turned = t.flip(1).roll(t.size(2) / 2, 2);
    return flip_sign ? turned.neg() : turned;
  };
  return at::cat({across(whole.narrow(1, skip, 3)), whole, across(whole.narrow(1, rows - 3 - skip, 3))}, 1);
}

TEST_F(Layers, RowsAcrossThePoles) {
  const Domain d = domain();
  for (const bool row_on_pole : {true, false}) {
    for (const bool flip_sign : {true, false}) {
      for (const Ints& offsets : cuts(9, d.size())) {
        const at::Tensor whole = random_like({2, 9, 6}, at::kDouble, 1).requires_grad_();
        const at::Tensor extended = with_poles(whole, row_on_pole, flip_sign);
        ops::RowExchange exchange{offsets, {}, {}, "pole", 1, 2, row_on_pole, flip_sign, d.name()};
        at::Tensor loss = whole.sum() * 0;
        const auto wanted = [&](int rank) {
          return extended.narrow(1, offsets[rank], exchange.ends[rank] - offsets[rank] + 3);
        };
        const auto weights = [&](int rank) { return random_like(wanted(rank).sizes(), at::kDouble, rank); };
        for (int rank = 0; rank < d.size(); ++rank) {
          exchange.begins.push_back(offsets[rank] - 3);
          exchange.ends.push_back(offsets[rank + 1] + 3);
          loss = loss + (wanted(rank) * weights(rank)).sum();
        }
        loss.backward();
        const at::Tensor own = shard(whole, 1, offsets, d.rank()).requires_grad_();
        const at::Tensor y = ops::gather_rows(own, exchange);
        EXPECT_TRUE(at::equal(y, wanted(d.rank())));
        y.backward(weights(d.rank()));
        EXPECT_TRUE(close(own.grad(), shard(whole.grad(), 1, offsets, d.rank()), 1e-12));
        EXPECT_TRUE(at::equal(ops::fold_rows(weights(d.rank()), exchange), own.grad()));
      }
    }
  }
}

TEST_F(Layers, HaloShardGatherAndSync) {
  const Domain d = domain();
  const at::Tensor whole = random_like({2, 11, 4}, at::kDouble, 1);
  const at::Tensor own = shard_tensor(whole, 1, d);
  EXPECT_TRUE(at::equal(gather_tensor(own, 1, d), whole));
  const at::Tensor wide = HaloExchange(2, 1, d).forward(own);
  const auto interval = rows::Partition::balanced(11, d.size()).interval(d.rank());
  const at::Tensor padded = at::constant_pad_nd(whole, {0, 0, 2, 2});
  EXPECT_TRUE(at::equal(wide, padded.narrow(1, interval.begin, interval.size() + 4)));
  at::Tensor p = at::zeros({100000}).requires_grad_();
  p.mutable_grad() = at::full({100000}, d.rank() + 1.0F);
  sync_domain_gradients({p}, d);
  EXPECT_TRUE(at::equal(p.grad(), at::full({100000}, d.size() * (d.size() + 1) / 2.0F)));
}

}  // namespace
}  // namespace graticule

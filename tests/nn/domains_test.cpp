// Which domain a layer works over, how it learns its cut, and sharding.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <array>
#include <functional>

#include "graticule/comm/exchange.hpp"
#include "graticule/comm/thread_group.hpp"
#include "graticule/nn/conv.hpp"
#include "graticule/nn/group_norm.hpp"
#include "graticule/nn/interpolate.hpp"
#include "graticule/nn/periodic_conv.hpp"
#include "graticule/nn/sharding.hpp"
#include "graticule/ops/row_exchange.hpp"
#include "nn/copy.hpp"
#include "support/environment.hpp"
#include "support/errors.hpp"

namespace graticule {
namespace {

using comm::Domain;
using support::close;
using support::contains;
using support::copy_of;
using support::EnvironmentVariable;
using support::error_of;
using support::filled;
using support::random_like;
using support::run_ranks;
using support::seconds_of;
using support::shard;

using Ints = std::vector<int64_t>;

torch::nn::Conv2d some_conv() { return filled(torch::nn::Conv2d(torch::nn::Conv2dOptions(2, 2, 3).padding(1))); }

at::Tensor whole_input(int64_t rows) { return random_like({1, 2, rows, 4}, at::kDouble, 1); }

at::Tensor balanced_shard(const at::Tensor& whole, const Domain& domain) {
  return shard(whole, 2, rows::Partition::balanced(whole.size(2), domain.size()).offsets(), domain.rank());
}

TEST(Domains, ALayerWithoutOneIsItsPlainSelf) {
  const torch::nn::Conv2d conv = some_conv();
  DomainParallelConv2d cut(conv);
  EXPECT_FALSE(default_domain().has_value());
  EXPECT_TRUE(at::equal(cut->forward(whole_input(7)), copy_of(conv)->forward(whole_input(7))));
}

TEST(Domains, TheDefaultOneIsForLayersThatWereGivenNone) {
  const torch::nn::Conv2d conv = some_conv();
  const at::Tensor expected = copy_of(conv)->forward(whole_input(7));
  run_ranks(2, [&](const Domain& domain) {
    const bool by_default = domain.rank() == 0;
    DomainParallelConv2d cut(copy_of(conv), -2, by_default ? std::nullopt : std::optional(domain));
    if (by_default) {
      set_default_domain(domain);
      EXPECT_EQ(default_domain()->name(), domain.name());
    }
    const at::Tensor y = cut->forward(balanced_shard(whole_input(7), domain));
    EXPECT_TRUE(close(y, balanced_shard(expected, domain), 1e-12));
  });
  set_default_domain(std::nullopt);
  EXPECT_FALSE(default_domain().has_value());
  EXPECT_TRUE(at::equal(DomainParallelConv2d(conv)->forward(whole_input(7)), expected));
}

TEST(Domains, TwoInOneProgram) {
  const torch::nn::Conv2d conv = some_conv();
  const at::Tensor expected = copy_of(conv)->forward(whole_input(9));
  run_ranks(4, [&](const Domain& all) {
    // Ranks 0 and 1, and ranks 2 and 3, work on a sample each; all four on a third one.
    const std::string pair_name = comm::create_thread_group(c10::str("pair ", all.rank() / 2), all.rank() % 2, 2);
    {
      const Domain pair = Domain::from_group_name(pair_name);
      DomainParallelConv2d over_all(copy_of(conv), -2, all);
      DomainParallelConv2d over_pair(copy_of(conv), -2, pair);
      for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(
            close(over_all->forward(balanced_shard(whole_input(9), all)), balanced_shard(expected, all), 1e-12));
        EXPECT_TRUE(
            close(over_pair->forward(balanced_shard(whole_input(9), pair)), balanced_shard(expected, pair), 1e-12));
      }
    }
    comm::destroy_thread_group(pair_name);
  });
}

TEST(Cuts, SizesAreExchangedOnceForANewSize) {
  const torch::nn::Conv2d conv = some_conv();
  std::array<uint64_t, 4> sent{};
  for (const bool given : {false, true}) {
    for (const int calls : {1, 2}) {
      const uint64_t before = comm::bytes_sent();
      run_ranks(3, [&](const Domain& domain) {
        DomainParallelConv2d cut(copy_of(conv), -2, domain);
        if (given) cut->set_rows(11);
        const at::NoGradGuard no_grad;
        for (int i = 0; i < calls; ++i) cut->forward(balanced_shard(whole_input(11), domain));
      });
      sent[2 * static_cast<int>(given) + calls - 1] = comm::bytes_sent() - before;
    }
  }
  const uint64_t sizes = 3 * 2 * sizeof(int64_t);
  EXPECT_EQ(sent[0], sent[2] + sizes);
  EXPECT_EQ(sent[1], sent[3] + sizes);
  EXPECT_EQ(sent[3], 2 * sent[2]);
}

TEST(Cuts, GivenRowsThatTheShardsDoNotHaveAreAnErrorOnEveryRank) {
  run_ranks(2, [](const Domain& domain) {
    DomainParallelConv2d cut(some_conv(), -2, domain);
    cut->set_rows(11);
    const at::Tensor x = whole_input(domain.rank() == 0 ? 5 : 7);
    const std::string error = error_of([&] { cut->forward(x); });
    EXPECT_TRUE(contains(error, domain.rank() == 1 ? "expected 6 rows" : "rank 1 failed"));
  });
}

TEST(Cuts, ASizeThatChangesOnOneRankAloneIsAnErrorOnEveryRank) {
  const EnvironmentVariable timeout("GRATICULE_TIMEOUT", "2");
  run_ranks(4, [](const Domain& domain) {
    DomainParallelConv2d cut(some_conv(), -2, domain);
    const auto step = [&](int64_t rows) {
      cut->forward(balanced_shard(whole_input(rows), domain)).sum().backward();
      sync_domain_gradients(cut->parameters(), domain);
    };
    step(36);
    // 37 rows over 4 ranks are 9, 9, 9 and 10.
    EXPECT_LT(seconds_of([&] { EXPECT_TRUE(contains(error_of([&] { step(37); }), "rank")); }), 15);
  });
}

TEST(Cuts, CheckModeNamesTheRankThatDiffers) {
  const EnvironmentVariable check("GRATICULE_CHECK", "1");
  run_ranks(3, [](const Domain& domain) {
    DomainParallelConv2d cut(some_conv(), -2, domain);
    cut->forward(balanced_shard(whole_input(8), domain));
    cut->forward(balanced_shard(whole_input(9), domain));
    const at::Tensor x = balanced_shard(whole_input(9), domain).to(domain.rank() == 1 ? at::kFloat : at::kDouble);
    const std::string error = error_of([&] { cut->forward(x); });
    EXPECT_TRUE(contains(error, "the ranks differ"));
    EXPECT_TRUE(contains(error, "rank 1 has"));
  });
}

TEST(Cuts, CheckModeComparesOptionsAndShapes) {
  const EnvironmentVariable check("GRATICULE_CHECK", "1");
  const auto differ = [](const std::function<void(const Domain&, bool)>& call) {
    run_ranks(2, [&](const Domain& domain) {
      EXPECT_TRUE(contains(error_of([&] { call(domain, domain.rank() == 1); }), "the ranks differ"));
    });
  };
  // Without a halo no message would tell.
  differ([](const Domain& domain, bool other) {
    const auto options = torch::nn::Conv2dOptions(4, 4, 2).stride({2, other ? 1 : 2});
    DomainParallelConv2d(torch::nn::Conv2d(options), -2, domain)->forward(at::ones({1, 4, 4, 6}));
  });
  differ([](const Domain& domain, bool other) {
    DomainParallelConv2d(torch::nn::Conv2d(torch::nn::Conv2dOptions(4, 4, 1)), -2, domain)
        ->forward(at::ones({other ? 1 : 2, 4, 4, 6}));
  });
  differ([](const Domain& domain, bool other) {
    DomainParallelInterpolate(Ints{8, 6}, other ? "nearest" : "nearest-exact", -2, domain)
        ->forward(at::ones({1, 4, 2, 6}));
  });
  differ([](const Domain& domain, bool other) {
    DomainParallelGroupNorm norm(torch::nn::GroupNorm(torch::nn::GroupNormOptions(2, 4)), -2, domain);
    if (other) norm->eps = 1;
    norm->forward(at::ones({1, 4, 2, 6}));
  });
  differ([](const Domain& domain, bool other) {
    ops::RowExchange rows{{0, 2, 4}, {0, 2}, {2, 4}, other ? "zeros" : "none", 2, -1, true, false, domain.name()};
    ops::gather_rows(at::ones({1, 4, 2, 6}), rows);
  });
}

TEST(Sharding, ShardAndGatherAreInverse) {
  for (const int ranks : {1, 2, 3, 5}) {
    for (const int64_t rows : {1, 4, 11}) {
      const at::Tensor whole = random_like({2, 3, rows, 4}, at::kDouble, 1);
      run_ranks(ranks, [&](const Domain& domain) {
        for (const int64_t dim : {2, -2}) {
          const at::Tensor x = whole.clone().requires_grad_();
          const at::Tensor own = shard_tensor(x, dim, domain);
          EXPECT_TRUE(at::equal(own, balanced_shard(whole, domain)));
          const at::Tensor back = gather_tensor(own, dim, domain);
          EXPECT_TRUE(at::equal(back, whole));
          // Every rank's loss counts: a row's gradient is the sum over the ranks.
          back.backward(at::full_like(back, domain.rank() + 1));
          const at::Tensor expected = at::zeros_like(whole);
          const auto interval = rows::Partition::balanced(rows, ranks).interval(domain.rank());
          expected.narrow(2, interval.begin, interval.size()).fill_(ranks * (ranks + 1) / 2);
          EXPECT_TRUE(at::equal(x.grad(), expected));
        }
      });
    }
  }
}

TEST(Sharding, GatherTakesShardsOfAnySize) {
  const Ints offsets{0, 0, 4, 5, 11};
  const at::Tensor whole = random_like({11, 3}, at::kDouble, 1);
  run_ranks(4, [&](const Domain& domain) {
    EXPECT_TRUE(at::equal(gather_tensor(shard(whole, 0, offsets, domain.rank()), 0, domain), whole));
  });
}

at::Tensor parameter(at::IntArrayRef sizes, at::ScalarType dtype, std::optional<double> gradient) {
  at::Tensor p = at::zeros(sizes, at::TensorOptions(dtype)).requires_grad_();
  if (gradient.has_value()) p.mutable_grad() = at::full(sizes, *gradient, dtype);
  return p;
}

TEST(SyncDomainGradients, AddsUpWhatTheRanksHave) {
  run_ranks(3, [](const Domain& domain) {
    const int rank = domain.rank();
    const auto only_on = [&](int which, double value) { return rank == which ? std::optional(value) : std::nullopt; };
    std::vector<at::Tensor> p{parameter({2, 3}, at::kFloat, rank + 1),    parameter({4}, at::kDouble, 10 * (rank + 1)),
                              parameter({5}, at::kHalf, rank + 1),        parameter({2}, at::kFloat, only_on(1, 7)),
                              parameter({3}, at::kFloat, std::nullopt),   parameter({9 << 20}, at::kFloat, rank),
                              parameter({7}, at::kFloat, only_on(2, 0.5))};
    const at::Tensor frozen = at::zeros({3});
    p.insert(p.begin() + 1, frozen);
    sync_domain_gradients(p, domain);
    const auto expect = [&](size_t i, double value) {
      ASSERT_TRUE(p[i].grad().defined());
      EXPECT_EQ(p[i].grad().scalar_type(), p[i].scalar_type());
      EXPECT_TRUE(at::equal(p[i].grad(), at::full_like(p[i], value))) << i;
    };
    expect(0, 6);
    EXPECT_FALSE(p[1].grad().defined());
    expect(2, 60);
    expect(3, 6);
    expect(4, 7);
    EXPECT_FALSE(p[5].grad().defined()) << "no rank has a gradient for it";
    expect(6, 3);
    expect(7, 0.5);
  });
}

TEST(SyncDomainGradients, OfALazilyConjugatedGradientAndOfNoSparseOne) {
  run_ranks(2, [](const Domain& domain) {
    std::vector<at::Tensor> p{parameter({2}, at::kComplexFloat, 1)};
    p[0].mutable_grad() = at::full({2}, c10::complex<float>(1, 2)).conj();
    sync_domain_gradients(p, domain);
    EXPECT_TRUE(at::equal(p[0].grad(), at::full({2}, c10::complex<float>(2, -4))));
    p[0] = parameter({2}, at::kFloat, 1);
    p[0].mutable_grad() = p[0].grad().to_sparse();
    EXPECT_TRUE(contains(error_of([&] { sync_domain_gradients(p, domain); }), "expected dense gradients"));
  });
}

TEST(SyncDomainGradients, OfOneRankOrNoParameterDoesNothing) {
  const uint64_t before = comm::bytes_sent();
  run_ranks(1, [](const Domain& domain) {
    const std::vector<at::Tensor> p{parameter({2}, at::kFloat, 3)};
    sync_domain_gradients(p, domain);
    EXPECT_TRUE(at::equal(p[0].grad(), at::full({2}, 3.0F)));
  });
  run_ranks(2, [](const Domain& domain) { sync_domain_gradients({}, domain); });
  EXPECT_EQ(comm::bytes_sent(), before);
}

TEST(SyncDomainGradients, OtherParametersOnOneRankAreAnErrorOnEveryRank) {
  run_ranks(2, [](const Domain& domain) {
    const std::vector<at::Tensor> p{parameter({domain.rank() == 0 ? 3 : 4}, at::kFloat, 1)};
    EXPECT_TRUE(contains(error_of([&] { sync_domain_gradients(p, domain); }), "sync_domain_gradients"));
  });
  run_ranks(2, [](const Domain& domain) {
    std::vector<at::Tensor> p{parameter({3}, at::kFloat, 1)};
    if (domain.rank() == 1) p.push_back(parameter({3}, at::kFloat, 1));
    EXPECT_TRUE(contains(error_of([&] { sync_domain_gradients(p, domain); }), "sync_domain_gradients"));
  });
}

TEST(Constructors, TakeADomainAlone) {
  run_ranks(2, [](const comm::Domain& domain) {
    const at::Tensor rows = at::ones({1, 4, 3, 6});
    EXPECT_EQ(DomainParallelConv2d(torch::nn::Conv2d(4, 2, 1), domain)->forward(rows).size(2), 3);
    EXPECT_EQ(DomainParallelConvTranspose2d(torch::nn::ConvTranspose2d(4, 2, 1), domain)->forward(rows).size(2), 3);
    EXPECT_EQ(DomainParallelGroupNorm(torch::nn::GroupNorm(2, 4), domain)->forward(rows).size(2), 3);
    EXPECT_EQ(DomainParallelPeriodicConv2d(PeriodicConv2d(4, 2, 3), domain)->forward(rows).size(2), 3);
    EXPECT_EQ(DomainParallelConv3d(torch::nn::Conv3d(4, 2, 1), domain)->shard_dim(), 3);
  });
}

}  // namespace
}  // namespace graticule

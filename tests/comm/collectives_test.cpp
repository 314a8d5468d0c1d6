// Collectives: the same values and bits on every rank, or an error on every rank.
#include "graticule/comm/collectives.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>
#include <mutex>

#include "graticule/comm/check.hpp"
#include "graticule/comm/exchange.hpp"
#include "support/environment.hpp"
#include "support/errors.hpp"
#include "support/threads.hpp"

namespace graticule::comm {
namespace {

using support::contains;
using support::EnvironmentVariable;
using support::error_of;
using support::run_ranks;
using support::seconds_of;

// Numbers whose sum depends on the order: the same for the same rank and size.
at::Tensor numbers(int rank, int64_t count, at::ScalarType dtype) {
  const at::Tensor i = at::arange(count, at::kDouble);
  return at::sin(i * 7 + rank * 13).mul(at::pow(10, i.remainder(7) - rank)).to(dtype);
}

TEST(AllGather, GivesEveryRanksTensorInRankOrder) {
  for (const int size : {1, 2, 5}) {
    run_ranks(size, [&](const Domain& domain) {
      for (const auto dtype : {at::kFloat, at::kDouble, at::kHalf, at::kLong, at::kByte}) {
        for (const auto& shape : {std::vector<int64_t>{}, {0}, {3}, {2, 0, 4}, {2, 3, 4}}) {
          const auto parts = all_gather(domain, at::full(shape, domain.rank() + 1, dtype), "gather");
          ASSERT_EQ(parts.size(), static_cast<size_t>(size));
          for (int rank = 0; rank < size; ++rank) EXPECT_TRUE(at::equal(parts[rank], at::full(shape, rank + 1, dtype)));
        }
      }
    });
  }
}

TEST(AllGather, TakesAnyStrides) {
  run_ranks(3, [](const Domain& domain) {
    const at::Tensor base = at::arange(12, at::kDouble).view({3, 4}) + 100 * domain.rank();
    const auto parts = all_gather(domain, base.t(), "gather");
    for (int rank = 0; rank < 3; ++rank) {
      EXPECT_TRUE(at::equal(parts[rank], (at::arange(12, at::kDouble).view({3, 4}) + 100 * rank).t()));
    }
  });
}

TEST(AllToAll, GivesEachRankWhatIsForIt) {
  for (const int size : {1, 2, 5}) {
    run_ranks(size, [&](const Domain& domain) {
      // Rank a sends b * (a + 1) values to rank b: none to rank 0.
      const auto count = [](int from, int to) { return static_cast<int64_t>(to) * (from + 1); };
      const auto value = [](int from, int to) { return 100 * from + to; };
      std::vector<int64_t> sent;
      std::vector<int64_t> received;
      std::vector<at::Tensor> parts;
      std::vector<at::Tensor> expected;
      for (int peer = 0; peer < size; ++peer) {
        sent.push_back(count(domain.rank(), peer));
        received.push_back(count(peer, domain.rank()));
        parts.push_back(at::full({sent.back()}, value(domain.rank(), peer), at::kDouble));
        expected.push_back(at::full({received.back()}, value(peer, domain.rank()), at::kDouble));
      }
      EXPECT_TRUE(at::equal(all_to_all(domain, at::cat(parts), sent, received, "swap"), at::cat(expected)));
    });
  }
}

TEST(AllToAll, RefusesCountsThatDisagree) {
  const auto error = error_of([]() {
    run_ranks(2, [](const Domain& domain) {
      const int64_t other = domain.rank() == 0 ? 3 : 2;
      std::vector<int64_t> counts{other, other};
      (void)all_to_all(domain, at::zeros({2 * other}, at::kFloat), counts, counts, "swap");
    });
  });
  EXPECT_TRUE(contains(error, "swap")) << error;
}

TEST(AllReduce, AddsInRankOrderWithTheSameBitsOnEveryRank) {
  for (const int size : {1, 2, 3, 5}) {
    // On both sides of the 64 KiB above which the transport adds.
    for (const int64_t count : {0, 1, 1000, 8192, 8193, 50000}) {
      for (const auto dtype : {at::kFloat, at::kDouble}) {
        at::Tensor expected = numbers(0, count, dtype);
        for (int rank = 1; rank < size; ++rank) expected = expected + numbers(rank, count, dtype);
        run_ranks(size, [&](const Domain& domain) {
          at::Tensor t = numbers(domain.rank(), count, dtype);
          all_reduce_sum_(domain, t, "sum");
          EXPECT_TRUE(at::equal(t, expected)) << size << " ranks, " << count << " values";
        });
      }
    }
  }
}

TEST(AllReduce, WorksInPlaceOnAnyStrides) {
  for (const int64_t rows : {4, 400}) {
    run_ranks(2, [&](const Domain& domain) {
      const at::Tensor base = at::full({50, rows}, domain.rank() + 1, at::kDouble);
      at::Tensor view = base.t();
      all_reduce_sum_(domain, view, "sum");
      EXPECT_TRUE(at::equal(base, at::full_like(base, 3)));
    });
  }
}

TEST(GatherSizes, MakesTheOffsets) {
  run_ranks(4, [](const Domain& domain) {
    const std::vector<int64_t> rows{3, 0, 5, 1};
    EXPECT_EQ(gather_sizes(domain, rows[domain.rank()], "sizes"), (std::vector<int64_t>{0, 3, 3, 8, 9}));
  });
  run_ranks(1, [](const Domain& domain) { EXPECT_EQ(gather_sizes(domain, 7, "sizes"), (std::vector<int64_t>{0, 7})); });
}

TEST(Collectives, BytesSentCountsPayload) {
  const uint64_t before = bytes_sent();
  run_ranks(3, [](const Domain& domain) { all_gather(domain, at::zeros({10}, at::kDouble), "gather"); });
  EXPECT_EQ(bytes_sent() - before, 3 * 2 * 80U);
  const uint64_t middle = bytes_sent();
  run_ranks(3, [](const Domain& domain) {
    at::Tensor t = at::zeros({20000}, at::kDouble);
    all_reduce_sum_(domain, t, "sum");
  });
  EXPECT_EQ(bytes_sent() - middle, 3 * 160000U);
}

// Expects that `call` fails on each of three ranks, and soon.
void expect_errors_everywhere(const std::function<void(const Domain&)>& call, const std::string& part = "") {
  run_ranks(3, [&](const Domain& domain) {
    const double seconds = seconds_of([&] { EXPECT_TRUE(contains(error_of([&] { call(domain); }), part)); });
    EXPECT_LT(seconds, 10);
    EXPECT_THROW(gather_sizes(domain, 1, "after"), c10::Error) << "a domain that has failed stays so";
  });
}

TEST(CollectiveErrors, AnotherShapeOnOneRank) {
  expect_errors_everywhere([](const Domain& d) { all_gather(d, at::zeros({d.rank() == 1 ? 4 : 3}), "layer"); },
                           "layer");
  expect_errors_everywhere([](const Domain& d) { all_gather(d, at::zeros({d.rank() == 1 ? 2 : 3}), "layer"); },
                           "layer");
  // As many bytes, and another shape.
  expect_errors_everywhere(
      [](const Domain& d) { all_gather(d, d.rank() == 1 ? at::zeros({2, 3}) : at::zeros({3, 2}), "layer"); });
}

TEST(CollectiveErrors, AnotherDtypeOnOneRank) {
  expect_errors_everywhere(
      [](const Domain& d) { all_gather(d, at::zeros({3}, d.rank() == 2 ? at::kInt : at::kFloat), "layer"); });
}

TEST(CollectiveErrors, AnotherLayerOnOneRank) {
  expect_errors_everywhere([](const Domain& d) { all_gather(d, at::zeros({3}), d.rank() == 0 ? "one" : "other"); },
                           "the ranks do not make the same calls");
}

TEST(CollectiveErrors, ACallTooManyOnOneRank) {
  const EnvironmentVariable timeout("GRATICULE_TIMEOUT", "1");
  run_ranks(2, [](const Domain& domain) {
    gather_sizes(domain, 1, "sizes");
    if (domain.rank() == 0) {
      EXPECT_TRUE(contains(error_of([&] { gather_sizes(domain, 1, "sizes"); }), "within 1000 ms"));
    }
  });
}

TEST(CollectiveErrors, ALargeSumOfAnotherSizeOnOneRank) {
  const EnvironmentVariable timeout("GRATICULE_TIMEOUT", "2");
  for (const int64_t other : {20001, 19999, 100}) {
    expect_errors_everywhere([&](const Domain& d) {
      at::Tensor t = at::ones({d.rank() == 1 ? other : 20000}, at::kDouble);
      all_reduce_sum_(d, t, "sum");
    });
  }
}

TEST(CollectiveErrors, ALargeSumOfAnotherDtypeOnOneRank) {
  expect_errors_everywhere([](const Domain& d) {
    at::Tensor t = d.rank() == 1 ? at::ones({40000}, at::kFloat) : at::ones({20000}, at::kDouble);
    all_reduce_sum_(d, t, "sum");
  });
}

TEST(CheckEqual, NamesTheRankThatDiffers) {
  run_ranks(4, [](const Domain& domain) {
    check_equal(domain, "layer", "3 rows");
    const auto differ = [&] { check_equal(domain, "layer", domain.rank() == 2 ? "4 rows" : "3 rows"); };
    const std::string error = error_of(differ);
    EXPECT_TRUE(contains(error, "layer: the ranks differ: rank 0 has layer: 3 rows; rank 2 has layer: 4 rows"));
    EXPECT_FALSE(contains(error, "rank 1 has"));
    EXPECT_FALSE(contains(error, "rank 3 has"));
    check_equal(domain, "layer", "nobody is dead after a comparison");
  });
}

TEST(CheckEqual, TakesFactsOfAnyLength) {
  run_ranks(2, [](const Domain& domain) {
    check_equal(domain, "layer", std::string(5000, 'x'));
    const std::string other = std::string(4999, 'x') + (domain.rank() == 0 ? "x" : "y");
    EXPECT_TRUE(contains(error_of([&] { check_equal(domain, "layer", other); }), "the ranks differ"));
  });
}

TEST(CheckMode, IsReadFromTheEnvironment) {
  EXPECT_FALSE(check_mode());
  const std::pair<const char*, bool> values[] = {{"1", true}, {"0", false}, {"", false}, {"yes", true}};
  for (const auto& [text, expected] : values) {
    const EnvironmentVariable variable("GRATICULE_CHECK", text);
    EXPECT_EQ(check_mode(), expected) << text;
  }
}

}  // namespace
}  // namespace graticule::comm

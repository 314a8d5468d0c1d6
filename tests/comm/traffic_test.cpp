// What each rank counts of its own traffic.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

#include "graticule/comm/collectives.hpp"
#include "graticule/comm/exchange.hpp"
#include "support/threads.hpp"

namespace graticule::comm {
namespace {

using support::run_ranks;

struct Counts {
  uint64_t bytes = 0;
  uint64_t messages = 0;
  friend bool operator==(const Counts&, const Counts&) = default;
};

// `values` doubles to each neighbour, and as many from it.
void exchange_with_neighbours(const Domain& domain, int64_t values) {
  std::vector<Message> sends;
  std::vector<Message> receives;
  const auto buffer = [&] { return make_buffer({1}, at::kCPU, at::kDouble, {values}); };
  for (const int peer : {domain.rank() - 1, domain.rank() + 1}) {
    if (peer < 0 || peer >= domain.size()) continue;
    sends.push_back({peer, buffer()});
    receives.push_back({peer, buffer()});
  }
  start_exchange(domain, sends, receives, "halo").wait();
}

// What each of `size` ranks counts during `call`; checks that the process counts their sum.
std::vector<Counts> counts_of(int size, const std::function<void(const Domain&)>& call) {
  std::vector<Counts> counts(size);
  const Counts before{bytes_sent(), messages_sent()};
  run_ranks(size, [&](const Domain& domain) {
    EXPECT_EQ(domain.bytes_sent(), 0U);
    EXPECT_EQ(domain.messages_sent(), 0U);
    call(domain);
    counts[domain.rank()] = {domain.bytes_sent(), domain.messages_sent()};
  });
  Counts sum;
  for (const Counts& own : counts) sum = {sum.bytes + own.bytes, sum.messages + own.messages};
  EXPECT_EQ(sum, (Counts{bytes_sent() - before.bytes, messages_sent() - before.messages}));
  return counts;
}

TEST(Traffic, InnerRanksSendTheSameOnAnyNumberOfRanksAndEndsHalf) {
  for (const int size : {3, 5}) {
    const std::vector<Counts> counts = counts_of(size, [](const Domain& domain) {
      exchange_with_neighbours(domain, 10);
      exchange_with_neighbours(domain, 3);
    });
    constexpr Counts end{13 * sizeof(double), 2};
    for (int rank = 0; rank < size; ++rank) {
      const bool inner = rank > 0 && rank + 1 < size;
      EXPECT_EQ(counts[rank], (inner ? Counts{2 * end.bytes, 2 * end.messages} : end)) << rank << " of " << size;
    }
  }
}

TEST(Traffic, OfCollectivesIsCounted) {
  for (const int size : {3, 5}) {
    const auto others = static_cast<uint64_t>(size) - 1;
    const auto expect_each = [&](Counts expected, const std::function<void(const Domain&)>& call) {
      EXPECT_EQ(counts_of(size, call), std::vector<Counts>(size, expected));
    };
    expect_each({others * 80, others},
                [](const Domain& domain) { all_gather(domain, at::zeros({10}, at::kDouble), "gather"); });
    // By the transport's own sum, after the ranks have agreed by messages of no values.
    expect_each({160000, 2 * others}, [](const Domain& domain) {
      at::Tensor t = at::zeros({20000}, at::kDouble);
      all_reduce_sum_(domain, t, "sum");
    });
  }
}

TEST(Traffic, IsThatOfOneDomain) {
  run_ranks(2, [](const Domain& first) {
    const std::string name = create_thread_group("another traffic", first.rank(), 2);
    {
      const Domain second = Domain::from_group_name(name);
      exchange_with_neighbours(first, 4);
      EXPECT_EQ(second.messages_sent(), 0U);
      exchange_with_neighbours(second, 5);
      exchange_with_neighbours(second, 5);
      EXPECT_EQ(first.bytes_sent(), 4 * sizeof(double));
      EXPECT_EQ(first.messages_sent(), 1U);
      EXPECT_EQ(Domain::from_group_name(name).bytes_sent(), 10 * sizeof(double));
      EXPECT_EQ(second.messages_sent(), 2U);
    }
    destroy_thread_group(name);
  });
}

}  // namespace
}  // namespace graticule::comm

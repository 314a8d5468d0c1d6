// Ranks as threads, and domains found by name.
#include "graticule/comm/thread_group.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <thread>

#include "graticule/comm/collectives.hpp"
#include "graticule/comm/domain.hpp"
#include "graticule/comm/exchange.hpp"
#include "support/threads.hpp"

namespace graticule::comm {
namespace {

using support::run_ranks;

TEST(Domain, KnowsItsRankSizeAndName) {
  const std::string first = create_thread_group("names", 0, 2);
  const std::string second = create_thread_group("names", 1, 2);
  EXPECT_NE(first, second);
  const Domain domain = Domain::from_group_name(second);
  EXPECT_EQ(domain.rank(), 1);
  EXPECT_EQ(domain.size(), 2);
  EXPECT_EQ(domain.name(), second);
  EXPECT_EQ(domain.group()->getSize(), 2);
  destroy_thread_group(first);
  destroy_thread_group(second);
}

TEST(Domain, IsNotFoundBeforeAndAfterItsGroupLives) {
  EXPECT_THROW(Domain::from_group_name("nobody made this"), c10::Error);
  const std::string name = create_thread_group("short life", 0, 1);
  EXPECT_NO_THROW(Domain::from_group_name(name));
  destroy_thread_group(name);
  EXPECT_THROW(Domain::from_group_name(name), c10::Error);
}

TEST(Domain, OfANewGroupUnderAnOldNameStartsAnew) {
  for (int life = 0; life < 3; ++life) {
    const std::string name = create_thread_group("phoenix", 0, 1);
    const Domain domain = Domain::from_group_name(name);
    EXPECT_EQ(gather_sizes(domain, 4, "sizes"), (std::vector<int64_t>{0, 4}));
    poison(domain, "the end of this life");
    EXPECT_THROW(gather_sizes(domain, 4, "sizes"), c10::Error);
    destroy_thread_group(name);
  }
}

TEST(ThreadGroup, RefusesRanksThatAreNone) {
  EXPECT_THROW(create_thread_group("w", 2, 2), c10::ValueError);
  EXPECT_THROW(create_thread_group("w", -1, 2), c10::ValueError);
  EXPECT_THROW(create_thread_group("w", 0, 0), c10::ValueError);
}

TEST(ThreadGroup, ARankMadeTwiceIsAnErrorAndHarmsNobody) {
  const std::string first = create_thread_group("twice", 0, 2);
  EXPECT_THROW(create_thread_group("twice", 0, 2), c10::ValueError);
  const std::string second = create_thread_group("twice", 1, 2);
  const auto sizes = [](const std::string& name) { return gather_sizes(Domain::from_group_name(name), 3, "sizes"); };
  std::vector<int64_t> other;
  std::thread thread([&] { other = sizes(second); });
  EXPECT_EQ(sizes(first), (std::vector<int64_t>{0, 3, 6}));
  thread.join();
  EXPECT_EQ(other, (std::vector<int64_t>{0, 3, 6}));
  destroy_thread_group(first);
  destroy_thread_group(second);
  destroy_thread_group(second);
}

TEST(ThreadGroup, IsAProcessGroupOfC10d) {
  run_ranks(3, [](const Domain& domain) {
    const auto backend = domain.group()->getBackend(at::kCPU);
    for (int root = 0; root < 3; ++root) {
      std::vector<at::Tensor> tensors{at::full({4}, domain.rank(), at::kDouble)};
      c10d::BroadcastOptions options;
      options.rootRank = root;
      backend->broadcast(tensors, options)->wait();
      EXPECT_TRUE(at::equal(tensors[0], at::full({4}, root, at::kDouble)));
    }
    backend->barrier()->wait();
    std::vector<at::Tensor> tensors{at::ones({4})};
    c10d::AllreduceOptions options;
    options.reduceOp = c10d::ReduceOp::MAX;
    EXPECT_THROW(backend->allreduce(tensors, options), c10::Error);
  });
}

TEST(ThreadGroup, RunRanksThrowsWhatARankThrew) {
  const auto fail_on_one = [] {
    run_ranks(3, [](const Domain& domain) {
      if (domain.rank() == 1) throw std::runtime_error("rank 1 has a reason");
      start_exchange(domain, {}, {{1, make_buffer({}, at::kCPU, at::kFloat, {1})}}, "wait").wait();
    });
  };
  try {
    fail_on_one();
    FAIL() << "expected an exception";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "rank 1 has a reason");
  }
}

}  // namespace
}  // namespace graticule::comm

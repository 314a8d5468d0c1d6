// The transport over real MPI processes.
#include "graticule/mpi/mpi.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "graticule/comm/check.hpp"
#include "graticule/comm/collectives.hpp"
#include "graticule/comm/exchange.hpp"
#include "mpi/group.hpp"
#include "mpi/mpi_backend.hpp"
#include "support/environment.hpp"
#include "support/errors.hpp"

namespace graticule::mpi {
namespace {

using comm::Domain;
using support::contains;
using support::EnvironmentVariable;
using support::error_of;
using support::seconds_of;

using Transport = support::OverMpi;
using TransportErrors = support::OverMpi;

int world_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

int world_size() {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

TEST_F(Transport, GroupHasTheCommunicatorsRanks) {
  EXPECT_EQ(domain().rank(), world_rank());
  EXPECT_EQ(domain().size(), world_size());
  EXPECT_EQ(domain().group()->getBackend(at::kCPU)->getBackendName(), "graticule_mpi");
}

TEST_F(Transport, GathersAndSizes) {
  const Domain d = domain();
  std::vector<int64_t> offsets{0};
  for (int rank = 0; rank < d.size(); ++rank) offsets.push_back(offsets.back() + 2 * rank);
  EXPECT_EQ(comm::gather_sizes(d, 2 * d.rank(), "sizes"), offsets);
  for (const auto dtype : {at::kFloat, at::kDouble, at::kHalf, at::kLong, at::kBool}) {
    const auto parts = comm::all_gather(d, at::full({2, 3}, d.rank() % 2, dtype), "gather");
    for (int rank = 0; rank < d.size(); ++rank) EXPECT_TRUE(at::equal(parts[rank], at::full({2, 3}, rank % 2, dtype)));
  }
  EXPECT_EQ(comm::all_gather(d, at::empty({0}), "nothing").size(), static_cast<size_t>(d.size()));
}

TEST_F(Transport, SumsAreTheSameBitsOnEveryRank) {
  const Domain d = domain();
  for (const int64_t count : {1, 3, 8192, 8193, 100000}) {
    for (const auto dtype : {at::kFloat, at::kDouble}) {
      const at::Tensor i = at::arange(count, dtype);
      at::Tensor t = at::sin(i + d.rank());
      comm::all_reduce_sum_(d, t, "sum");
      at::Tensor expected = at::sin(i);
      for (int rank = 1; rank < d.size(); ++rank) expected = expected + at::sin(i + rank);
      EXPECT_TRUE(at::allclose(t, expected, 0, dtype == at::kFloat ? 1e-5 : 1e-13));
      for (const at::Tensor& theirs : comm::all_gather(d, t, "compare")) EXPECT_TRUE(at::equal(theirs, t));
    }
  }
}

// Works without a call of MPI, as a convolution does.
void compute_for(std::chrono::milliseconds duration) {
  const auto end = std::chrono::steady_clock::now() + duration;
  volatile double sum = 0;
  while (std::chrono::steady_clock::now() < end) sum = sum + 1;
}

// Rank 0 posts a halo and computes; the others come late, and compute as well. Rank 0 must have the halo by the end of
// its own work, though no rank waits for it before.
TEST_F(Transport, MovesLargeMessagesWhileTheRanksCompute) {
  if (world_size() > static_cast<int>(std::thread::hardware_concurrency())) GTEST_SKIP() << "ranks share processors";
  if (std::getenv("GRATICULE_TEST_HOST") != nullptr) GTEST_SKIP() << "the host allows MPI on its main thread alone";
  const Domain d = domain();
  using std::chrono::milliseconds;
  for (const int64_t bytes : {int64_t{20000}, int64_t{184000}, int64_t{1500000}, int64_t{40000000}}) {
    comm::all_gather(d, at::zeros({1}), "together");
    const double seconds = seconds_of([&]() {
      if (d.rank() != 0) std::this_thread::sleep_for(milliseconds(200));
      std::vector<comm::Message> sends;
      std::vector<comm::Message> receives;
      for (int peer = 0; peer < d.size(); ++peer) {
        if ((d.rank() == 0) == (peer == 0)) continue;
        sends.push_back({peer, comm::make_buffer({7}, at::kCPU, at::kByte, {bytes})});
        receives.push_back({peer, comm::make_buffer({7}, at::kCPU, at::kByte, {bytes})});
      }
      auto pending = comm::start_exchange(d, std::move(sends), std::move(receives), "late");
      pending.keep_moving();
      compute_for(milliseconds(300));
      pending.wait();
    });
    // 500 ms where messages move in waits alone.
    EXPECT_LT(seconds, d.rank() == 0 ? 0.42 : 0.62) << bytes << " bytes";
  }
}

TEST_F(Transport, BroadcastsAndWaits) {
  const auto backend = domain().group()->getBackend(at::kCPU);
  for (int root = 0; root < domain().size(); ++root) {
    std::vector<at::Tensor> tensors{at::full({5}, domain().rank(), at::kDouble)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    EXPECT_TRUE(backend->broadcast(tensors, options)->wait());
    EXPECT_TRUE(at::equal(tensors[0], at::full({5}, root, at::kDouble)));
  }
  const auto barrier = backend->barrier();
  EXPECT_TRUE(barrier->wait());
  EXPECT_TRUE(barrier->isCompleted());
  EXPECT_TRUE(barrier->isSuccess());
}

TEST_F(Transport, CheckModeNamesTheRankThatDiffers) {
  const Domain d = domain();
  const auto differ = [&] { comm::check_equal(d, "layer", d.rank() == 1 ? "4 rows" : "3 rows"); };
  EXPECT_TRUE(contains(error_of(differ), "rank 0 has layer: 3 rows; rank 1 has layer: 4 rows"));
  comm::check_equal(d, "layer", "nobody is dead after a comparison");
}

TEST_F(Transport, RefusesTensorsItCannotCarry) {
  const auto backend = domain().group()->getBackend(at::kCPU);
  std::vector<at::Tensor> strided{at::ones({4, 4}).t()};
  EXPECT_TRUE(contains(error_of([&] { backend->send(strided, 0, 1); }), "contiguous tensors only"));
  std::vector<at::Tensor> meta{at::ones({4}, at::TensorOptions(at::kMeta))};
  EXPECT_TRUE(contains(error_of([&] { backend->recv(meta, 0, 1); }), "that have values only"));
  std::vector<at::Tensor> half{at::ones({4}, at::kHalf)};
  EXPECT_TRUE(contains(error_of([&] { backend->allreduce(half); }), "MPI cannot add Half"));
  std::vector<at::Tensor> tensors{at::ones({4})};
  c10d::AllreduceOptions options;
  options.reduceOp = c10d::ReduceOp::MAX;
  EXPECT_TRUE(contains(error_of([&] { backend->allreduce(tensors, options); }), "reduce by nothing else"));
}

// A backend whose messages travel in pieces of at most 20 bytes, as larger ones do in pieces of 1 GiB.
c10::intrusive_ptr<MpiBackend> in_small_pieces() {
  MPI_Comm own = MPI_COMM_NULL;
  MPI_Comm_dup(MPI_COMM_WORLD, &own);
  return c10::make_intrusive<MpiBackend>(own, world_rank(), world_size(), 20);
}

TEST(Pieces, MessagesArriveWhole) {
  const auto backend = in_small_pieces();
  const int next = (world_rank() + 1) % world_size();
  const int previous = (world_rank() + world_size() - 1) % world_size();
  for (const int64_t bytes : {0, 1, 19, 20, 21, 40, 1013}) {
    const auto numbers = [&](int rank) { return (at::arange(bytes) * (rank + 3)).to(at::kByte); };
    std::vector<at::Tensor> received{at::zeros({bytes}, at::kByte)};
    std::vector<at::Tensor> sent{numbers(world_rank())};
    const auto receive = backend->recv(received, previous, 5);
    const auto send = backend->send(sent, next, 5);
    EXPECT_TRUE(receive->wait(std::chrono::seconds(30)));
    EXPECT_TRUE(send->wait(std::chrono::seconds(30)));
    EXPECT_TRUE(at::equal(received[0], numbers(previous))) << bytes << " bytes";
  }
  backend->release();
}

TEST(Pieces, CollectivesAreWhole) {
  const auto backend = in_small_pieces();
  for (const int64_t count : {0, 1, 2, 3, 5, 100}) {
    const auto numbers = [&](int rank) { return at::arange(count, at::kDouble) + 1000 * rank; };
    std::vector<at::Tensor> inputs{numbers(world_rank())};
    std::vector<std::vector<at::Tensor>> outputs(1);
    for (int rank = 0; rank < world_size(); ++rank) outputs[0].push_back(at::zeros({count}, at::kDouble));
    backend->allgather(outputs, inputs, {})->wait(std::chrono::seconds(30));
    at::Tensor sum = at::zeros({count}, at::kDouble);
    for (int rank = 0; rank < world_size(); ++rank) {
      EXPECT_TRUE(at::equal(outputs[0][rank], numbers(rank))) << count;
      sum = sum + numbers(rank);
    }
    backend->allreduce(inputs, {})->wait(std::chrono::seconds(30));
    EXPECT_TRUE(at::equal(inputs[0], sum)) << count;
    std::vector<at::Tensor> whole{numbers(world_rank())};
    backend->broadcast(whole, {})->wait(std::chrono::seconds(30));
    EXPECT_TRUE(at::equal(whole[0], numbers(0))) << count;
  }
  backend->release();
}

TEST(Lifetime, InitializingAgainChangesNothing) {
  int before = 0;
  int after = 0;
  MPI_Query_thread(&before);
  initialize();
  initialize();
  MPI_Query_thread(&after);
  EXPECT_EQ(before, after);
}

TEST(Lifetime, AGroupIsGoneAfterItsEnd) {
  EXPECT_EQ(create_group(MPI_COMM_WORLD, "short"), "short");
  EXPECT_NO_THROW(Domain::from_group_name("short"));
  destroy_group("short");
  EXPECT_THROW(Domain::from_group_name("short"), c10::Error);
  destroy_group("short");
  const Domain kept = create_domain(MPI_COMM_WORLD, "short");
  EXPECT_EQ(kept.size(), world_size());
  destroy_group("short");
  if (world_size() > 1) {
    EXPECT_THROW(comm::gather_sizes(kept, 1, "sizes"), c10::Error);
  }
}

TEST(Lifetime, ANameIsTakenOnce) {
  create_group(MPI_COMM_WORLD, "taken");
  EXPECT_TRUE(contains(error_of([] { create_group(MPI_COMM_WORLD, "taken"); }), "a group named taken already"));
  EXPECT_EQ(comm::gather_sizes(Domain::from_group_name("taken"), 1, "sizes").back(), world_size());
  destroy_group("taken");
}

TEST(Lifetime, FinalizeDestroysWhatIsLeft) { create_group(MPI_COMM_WORLD, "left to finalize"); }

TEST(Lifetime, OtherThreadsMayMakeGroupsOnlyWhereMpiAllowsIt) {
  int level = 0;
  MPI_Query_thread(&level);
  const char* host = std::getenv("GRATICULE_TEST_HOST");
  EXPECT_EQ(level >= MPI_THREAD_SERIALIZED, host == nullptr);
  std::string error;
  std::thread thread([&] {
    try {
      create_group(MPI_COMM_WORLD, "from a thread");
    } catch (const c10::Error& e) {
      error = e.what_without_backtrace();
    }
  });
  thread.join();
  if (level >= MPI_THREAD_SERIALIZED) {
    EXPECT_EQ(error, "");
    EXPECT_EQ(comm::gather_sizes(Domain::from_group_name("from a thread"), 1, "sizes").back(), world_size());
    destroy_group("from a thread");
  } else {
    EXPECT_TRUE(contains(error, "MPI was initialised for its main thread alone"));
  }
}

TEST(Communicators, TwoInOneProgramDoNotMix) {
  MPI_Comm part = MPI_COMM_NULL;
  // Reversed order within each part: ranks count within the group.
  MPI_Comm_split(MPI_COMM_WORLD, world_rank() % 2, -world_rank(), &part);
  const Domain whole = create_domain(MPI_COMM_WORLD, "whole");
  const Domain half = create_domain(part, "half");
  MPI_Comm_free(&part);
  const int members = (world_size() + 1 - world_rank() % 2) / 2;
  EXPECT_EQ(half.size(), members);
  EXPECT_EQ(half.rank(), members - 1 - world_rank() / 2);
  for (int i = 0; i < 10; ++i) {
    const auto of_half = comm::all_gather(half, at::full({1}, world_rank(), at::kLong), "half");
    const auto of_whole = comm::all_gather(whole, at::full({1}, world_rank(), at::kLong), "whole");
    for (int rank = 0; rank < members; ++rank) {
      EXPECT_EQ(of_half[rank].item<int64_t>(), world_rank() % 2 + 2 * (members - 1 - rank));
    }
    for (int rank = 0; rank < world_size(); ++rank) EXPECT_EQ(of_whole[rank].item<int64_t>(), rank);
  }
  // One of the two fails; the other lives on.
  comm::poison(half, "on purpose");
  EXPECT_THROW(comm::gather_sizes(half, 1, "sizes"), c10::Error);
  EXPECT_EQ(comm::gather_sizes(whole, 1, "sizes").back(), world_size());
  destroy_group("half");
  destroy_group("whole");
}

void exchange_with_neighbours(const Domain& d, int64_t count) {
  std::vector<comm::Message> sends;
  std::vector<comm::Message> receives;
  for (const int peer : {d.rank() - 1, d.rank() + 1}) {
    if (peer < 0 || peer >= d.size()) continue;
    sends.push_back({peer, comm::make_buffer({1}, at::kCPU, at::kFloat, {count})});
    receives.push_back({peer, comm::make_buffer({1}, at::kCPU, at::kFloat, {count})});
  }
  comm::start_exchange(d, sends, receives, "neighbours").wait();
}

// A failure reaches a rank at the latest after as many exchanges as it is ranks away.
void expect_an_error_soon(const Domain& d, int64_t count) {
  const double seconds = seconds_of([&] {
    const auto calls = [&] {
      for (int i = 0; i < d.size(); ++i) exchange_with_neighbours(d, count);
    };
    EXPECT_TRUE(contains(error_of(calls), "neighbours"));
  });
  EXPECT_LT(seconds, 15);
  EXPECT_THROW(exchange_with_neighbours(d, count), c10::Error) << "a domain that has failed stays so";
}

TEST_F(TransportErrors, AMessageOfAnotherSizeIsAnErrorOnEveryRank) {
  const EnvironmentVariable timeout("GRATICULE_TIMEOUT", "5");
  expect_an_error_soon(domain(), domain().rank() == 0 ? 5 : 7);
}

TEST_F(TransportErrors, AShorterMessageIsAnErrorOnEveryRank) {
  const EnvironmentVariable timeout("GRATICULE_TIMEOUT", "5");
  expect_an_error_soon(domain(), domain().rank() == 0 ? 70000 : 5);
}

TEST_F(TransportErrors, ARankThatFailsEndsAll) {
  const Domain d = domain();
  exchange_with_neighbours(d, 3);
  if (d.rank() == d.size() - 1) {
    comm::poison(d, "the last rank fails");
    EXPECT_TRUE(contains(error_of([&] { exchange_with_neighbours(d, 3); }), "the last rank fails"));
  } else {
    expect_an_error_soon(d, 3);
  }
}

TEST_F(TransportErrors, ASilentRankEndsInAnErrorWithinTheTimeout) {
  const EnvironmentVariable timeout("GRATICULE_TIMEOUT", "0.5");
  const Domain d = domain();
  if (d.rank() == 0) return;
  expect_an_error_soon(d, 3);
}

TEST_F(TransportErrors, ACollectiveOfAnotherShapeIsAnErrorOnEveryRank) {
  const EnvironmentVariable timeout("GRATICULE_TIMEOUT", "5");
  const Domain d = domain();
  const int64_t count = d.rank() == 1 ? 4 : 3;
  EXPECT_TRUE(contains(error_of([&] { comm::all_gather(d, at::zeros({count}), "layer"); }), "layer"));
  EXPECT_THROW(comm::gather_sizes(d, 1, "after"), c10::Error);
}

TEST_F(TransportErrors, ALargeSumOfAnotherSizeIsAnErrorOnEveryRank) {
  const EnvironmentVariable timeout("GRATICULE_TIMEOUT", "5");
  const Domain d = domain();
  at::Tensor t = at::zeros({d.rank() == 1 ? 40000 : 40001});
  EXPECT_TRUE(contains(error_of([&] { comm::all_reduce_sum_(d, t, "sum"); }), "sum"));
}

}  // namespace
}  // namespace graticule::mpi

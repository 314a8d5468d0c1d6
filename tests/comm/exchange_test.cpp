// Messages between ranks: what arrives, in which order, and what is no message for this rank.
#include "graticule/comm/exchange.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "comm/message_header.hpp"
#include "graticule/comm/collectives.hpp"
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

at::Tensor message(uint64_t tag, at::IntArrayRef shape, double value, at::ScalarType dtype = at::kDouble) {
  at::Tensor buffer = make_buffer({tag}, at::kCPU, dtype, shape);
  payload(buffer, dtype, shape).fill_(value);
  return buffer;
}

// Sends `sent` numbers to `peer` and expects `received` from it.
void swap(const Domain& domain, int peer, int64_t sent, int64_t received, uint64_t sent_tag = 1,
          uint64_t received_tag = 1) {
  start_exchange(domain, {{peer, message(sent_tag, {sent}, 1)}}, {{peer, message(received_tag, {received}, 0)}}, "swap")
      .wait();
}

double code(int from, int to, int round) { return from * 10000 + to * 100 + round; }

TEST(Exchange, EveryRankGetsWhatWasSentToItInOrder) {
  for (const int size : {1, 2, 3, 5}) {
    run_ranks(size, [&](const Domain& domain) {
      for (int round = 0; round < 20; ++round) {
        // The shape differs for each pair and round, and some messages hold nothing.
        const auto shape = [&](int from, int to) { return std::vector<int64_t>{(from + 2 * to + round) % 4, 3}; };
        std::vector<Message> sends;
        std::vector<Message> receives;
        for (int peer = 0; peer < size; ++peer) {
          if (peer == domain.rank()) continue;
          sends.push_back({peer, message(round, shape(domain.rank(), peer), code(domain.rank(), peer, round))});
          receives.push_back({peer, message(round, shape(peer, domain.rank()), -1)});
        }
        start_exchange(domain, sends, receives, "all pairs").wait();
        for (const Message& received : receives) {
          const auto values = payload(received.buffer, at::kDouble, shape(received.peer, domain.rank()));
          EXPECT_TRUE(at::equal(values, at::full_like(values, code(received.peer, domain.rank(), round))));
        }
      }
    });
  }
}

TEST(Exchange, MessagesGoOneWay) {
  run_ranks(4, [](const Domain& domain) {
    const at::Tensor buffer = message(1, {5}, domain.rank());
    std::vector<Message> sends;
    std::vector<Message> receives;
    if (domain.rank() < 3) sends.push_back({domain.rank() + 1, buffer});
    const at::Tensor room = message(1, {5}, -1);
    if (domain.rank() > 0) receives.push_back({domain.rank() - 1, room});
    start_exchange(domain, sends, receives, "chain").wait();
    if (domain.rank() > 0) {
      EXPECT_TRUE(at::equal(payload(room, at::kDouble, {5}), at::full({5}, domain.rank() - 1, at::kDouble)));
    }
  });
}

TEST(Exchange, SeveralUnderWayMayBeWaitedForInAnyOrder) {
  run_ranks(2, [](const Domain& domain) {
    const int peer = 1 - domain.rank();
    std::vector<at::Tensor> rooms;
    std::vector<PendingExchange> pending;
    for (int i = 0; i < 4; ++i) {
      rooms.push_back(message(i, {3}, -1));
      pending.push_back(start_exchange(domain, {{peer, message(i, {3}, i)}}, {{peer, rooms.back()}}, "one of several"));
    }
    for (const int i : {2, 3, 0, 1}) {
      pending[i].wait();
      EXPECT_TRUE(at::equal(payload(rooms[i], at::kDouble, {3}), at::full({3}, i, at::kDouble)));
    }
  });
}

TEST(Exchange, WaitingAgainAndExchangingNothingReturn) {
  run_ranks(2, [](const Domain& domain) {
    PendingExchange nothing = start_exchange(domain, {}, {}, "nothing");
    nothing.wait();
    nothing.wait();
    PendingExchange never_started;
    never_started.wait();
  });
}

TEST(Exchange, BuffersCarryEveryDtype) {
  run_ranks(2, [](const Domain& domain) {
    for (const auto dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kByte}) {
      const int peer = 1 - domain.rank();
      const at::Tensor room = message(1, {2, 3}, 0, dtype);
      start_exchange(domain, {{peer, message(1, {2, 3}, 5 + domain.rank(), dtype)}}, {{peer, room}}, "dtypes").wait();
      EXPECT_TRUE(at::equal(payload(room, dtype, {2, 3}), at::full({2, 3}, 5 + peer, dtype)));
    }
  });
}

TEST(Exchange, TwoDomainsOfTheSameThreadsDoNotMix) {
  run_ranks(2, [](const Domain& first) {
    const std::string name = create_thread_group("another world", 1 - first.rank(), 2);
    {
      const Domain second = Domain::from_group_name(name);
      const at::Tensor a = message(1, {2}, 0);
      const at::Tensor b = message(1, {2}, 0);
      auto on_first =
          start_exchange(first, {{1 - first.rank(), message(1, {2}, 10)}}, {{1 - first.rank(), a}}, "first");
      auto on_second = start_exchange(second, {{first.rank(), message(1, {2}, 20)}}, {{first.rank(), b}}, "second");
      on_second.wait();
      on_first.wait();
      EXPECT_EQ(payload(a, at::kDouble, {2})[0].item<double>(), 10);
      EXPECT_EQ(payload(b, at::kDouble, {2})[0].item<double>(), 20);
    }
    destroy_thread_group(name);
  });
}

TEST(Exchange, BytesSentCountsPayload) {
  const uint64_t before = bytes_sent();
  run_ranks(2, [](const Domain& domain) { swap(domain, 1 - domain.rank(), 3 + domain.rank(), 4 - domain.rank()); });
  EXPECT_EQ(bytes_sent() - before, (3 + 4) * sizeof(double));
}

// Runs `call` on two ranks and expects an error that says `part` on both, at once.
void expect_errors(const std::string& part, const std::function<void(const Domain&)>& call) {
  run_ranks(2, [&](const Domain& domain) {
    const double seconds = seconds_of([&] {
      const std::string error = error_of([&] { call(domain); });
      EXPECT_TRUE(contains(error, part));
      EXPECT_TRUE(contains(error, "swap"));
      EXPECT_TRUE(contains(error, c10::str("(rank ", domain.rank(), " of 2)")));
    });
    EXPECT_LT(seconds, 10);
  });
}

TEST(ExchangeErrors, SizesThatDiffer) {
  expect_errors("bytes", [](const Domain& d) { swap(d, 1 - d.rank(), d.rank() == 0 ? 5 : 7, d.rank() == 0 ? 5 : 7); });
  expect_errors("bytes", [](const Domain& d) { swap(d, 1 - d.rank(), 0, 1); });
  expect_errors("bytes", [](const Domain& d) { swap(d, 1 - d.rank(), 1, 0); });
}

TEST(ExchangeErrors, TagsThatDiffer) {
  expect_errors("another layer, shape or dtype", [](const Domain& d) { swap(d, 1 - d.rank(), 4, 4, 1, 2); });
}

// Puts a message with a given header on the way to the other of two ranks, past the library.
void send_raw(const Domain& domain, const std::function<void(MessageHeader&)>& change) {
  at::Tensor buffer = message(1, {4}, 1);
  MessageHeader& header = header_of(buffer);
  header.magic = MessageHeader::magic_number;
  header.source = domain.rank();
  change(header);
  std::vector<at::Tensor> tensors{buffer};
  domain.group()->getBackend(at::kCPU)->send(tensors, 1 - domain.rank(), 0x6772);
}

void receive(const Domain& domain) {
  start_exchange(domain, {}, {{1 - domain.rank(), message(1, {4}, 0)}}, "swap").wait();
}

TEST(ExchangeErrors, ANumberOutOfOrder) {
  expect_errors("its number 1, here 0", [](const Domain& domain) {
    send_raw(domain, [](MessageHeader& header) { header.sequence = 1; });
    receive(domain);
  });
}

TEST(ExchangeErrors, BytesThatAreNoMessage) {
  expect_errors("got others", [](const Domain& domain) {
    send_raw(domain, [](MessageHeader& header) { header.magic = 12345; });
    receive(domain);
  });
}

TEST(ExchangeErrors, ASenderLearnsOfItsMistakeToo) {
  run_ranks(2, [](const Domain& domain) {
    if (domain.rank() == 0) {
      // Nothing comes back, so the first exchange cannot fail here.
      start_exchange(domain, {{1, message(1, {3}, 1)}}, {}, "lonely").wait();
      EXPECT_TRUE(contains(error_of([&] { swap(domain, 1, 2, 2); }), "rank 1 failed"));
    } else {
      const auto call = [&] { start_exchange(domain, {}, {{0, message(1, {4}, 0)}}, "lonely").wait(); };
      EXPECT_TRUE(contains(error_of(call), "expected 32 bytes from rank 0, got 24"));
    }
  });
}

TEST(Turn, AnotherThreadInTheMiddleOfAnExchangeIsAnErrorOnAllRanks) {
  std::string of_the_other;
  const auto errors = [&](const Domain& domain) {
    if (domain.rank() == 1) return error_of([&] { swap(domain, 0, 2, 2, 1, 2); });
    auto pending = start_exchange(domain, {}, {{1, message(1, {2}, 0)}}, "first");
    std::thread([&] { of_the_other = error_of([&] { swap(domain, 1, 2, 2); }); }).join();
    return of_the_other;
  };
  std::vector<std::string> each(2);
  run_ranks(2, [&](const Domain& domain) { each[domain.rank()] = errors(domain); });
  EXPECT_TRUE(contains(each[0], "swap: two threads of this process use the domain at once")) << each[0];
  EXPECT_TRUE(contains(each[1], "rank 0 failed")) << each[1];
}

TEST(Turn, ThreadsMayUseADomainOneAfterTheOther) {
  run_ranks(2, [&](const Domain& domain) {
    const int peer = 1 - domain.rank();
    swap(domain, peer, 2, 2);
    std::thread([&] { swap(domain, peer, 3, 3); }).join();
    {
      const Turn left_by_an_error(domain, "dropped");
    }
    std::thread([&] { all_gather(domain, at::ones({2}), "sizes"); }).join();
  });
}

TEST(Poison, ReachesAPeerThatWaitsAtOnce) {
  run_ranks(3, [](const Domain& domain) {
    if (domain.rank() == 1) {
      poison(domain, "out of memory");
      return;
    }
    const double seconds =
        seconds_of([&] { EXPECT_TRUE(contains(error_of([&] { swap(domain, 1, 2, 2); }), "swap: rank 1 failed")); });
    EXPECT_LT(seconds, 10);
  });
}

TEST(Poison, SpreadsAlongAChainOfWaiters) {
  run_ranks(4, [](const Domain& domain) {
    if (domain.rank() == 3) {
      poison(domain, "the last rank fails");
      return;
    }
    // Rank 0 waits for rank 1, rank 1 for rank 2, rank 2 for rank 3.
    const auto call = [&] { start_exchange(domain, {}, {{domain.rank() + 1, message(1, {2}, 0)}}, "chain").wait(); };
    EXPECT_LT(seconds_of([&] { EXPECT_THROW(call(), c10::Error); }), 10);
  });
}

TEST(Poison, ADomainThatHasFailedStaysSo) {
  run_ranks(2, [](const Domain& domain) {
    poison(domain, "the first reason");
    poison(domain, "another reason");
    for (int i = 0; i < 2; ++i) {
      EXPECT_TRUE(contains(error_of([&] { swap(domain, 1 - domain.rank(), 2, 2); }), "the first reason"));
      EXPECT_TRUE(contains(error_of([&] { gather_sizes(domain, 1, "sizes"); }), "the first reason"));
      at::Tensor t = at::ones({100000});
      EXPECT_TRUE(contains(error_of([&] { all_reduce_sum_(domain, t, "sum"); }), "the first reason"));
    }
    EXPECT_THROW(swap(Domain::from_group_name(domain.name()), 1 - domain.rank(), 2, 2), c10::Error);
  });
}

TEST(Poison, WhatWasSentBeforeStillArrives) {
  run_ranks(2, [](const Domain& domain) {
    const at::Tensor room = message(1, {2}, 0);
    if (domain.rank() == 0) {
      start_exchange(domain, {{1, message(1, {2}, 3)}}, {}, "first").wait();
      poison(domain, "later");
    } else {
      start_exchange(domain, {}, {{0, room}}, "first").wait();
      EXPECT_EQ(payload(room, at::kDouble, {2})[1].item<double>(), 3);
      EXPECT_THROW(start_exchange(domain, {}, {{0, room}}, "second").wait(), c10::Error);
    }
  });
}

TEST(Timeout, EndsTheWaitForARankThatIsSilent) {
  const EnvironmentVariable timeout("GRATICULE_TIMEOUT", "0.4");
  run_ranks(2, [](const Domain& domain) {
    if (domain.rank() == 1) return;
    const double seconds = seconds_of([&] {
      const std::string error = error_of([&] { swap(domain, 1, 2, 2); });
      EXPECT_TRUE(contains(error, "swap: waiting for rank 1: no message from rank 1 within 400 ms"));
    });
    EXPECT_GE(seconds, 0.35);
    EXPECT_LT(seconds, 5);
    EXPECT_THROW(swap(domain, 1, 2, 2), c10::Error);
  });
}

TEST(Timeout, IsReadFromTheEnvironmentAtEachCall) {
  run_ranks(1, [](const Domain& domain) {
    using std::chrono::milliseconds;
    EXPECT_EQ(domain.timeout(), milliseconds(60000));
    const std::pair<const char*, int> values[] = {{"2.5", 2500}, {"300", 300000}, {"", 60000}, {"0.0005", 1}};
    for (const auto& [text, expected] : values) {
      const EnvironmentVariable timeout("GRATICULE_TIMEOUT", text);
      EXPECT_EQ(domain.timeout(), milliseconds(expected)) << text;
    }
    for (const char* text : {"-1", "0", "soon", "nan", "5 s"}) {
      const EnvironmentVariable timeout("GRATICULE_TIMEOUT", text);
      EXPECT_THROW((void)domain.timeout(), c10::ValueError) << text;
    }
  });
}

// Memory comes back only when nobody holds the buffer, a view of its values, or the values as a tensor of their own.
TEST(Buffer, IsUsedAgainOnceNobodyHoldsIt) {
  const std::vector<int64_t> shape{100, 100};
  void* memory = nullptr;
  {
    at::Tensor held;
    {
      const at::Tensor buffer = make_buffer({1}, at::kCPU, at::kFloat, shape);
      memory = buffer.mutable_data_ptr();
      held = payload(buffer, at::kFloat, shape);
      EXPECT_NE(make_buffer({1}, at::kCPU, at::kFloat, shape).mutable_data_ptr(), memory);
    }
    held.fill_(7);
    EXPECT_NE(make_buffer({1}, at::kCPU, at::kFloat, shape).mutable_data_ptr(), memory);
    EXPECT_TRUE(at::equal(held, at::full(shape, 7.0)));
    const at::Tensor view = held.narrow(0, 1, 2);
    held.reset();
    EXPECT_NE(make_buffer({1}, at::kCPU, at::kFloat, shape).mutable_data_ptr(), memory);
  }
  EXPECT_EQ(make_buffer({1}, at::kCPU, at::kFloat, shape).mutable_data_ptr(), memory);
}

}  // namespace
}  // namespace graticule::comm

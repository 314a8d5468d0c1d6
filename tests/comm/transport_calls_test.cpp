// What an exchange asks of a transport, and in which order.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "graticule/comm/collectives.hpp"
#include "graticule/comm/exchange.hpp"

namespace graticule::comm {
namespace {

using Calls = std::vector<std::string>;

class NotedWork : public c10d::Work {
 public:
  explicit NotedWork(std::function<void()> finish) : finish_(std::move(finish)) {}
  bool wait(std::chrono::milliseconds) override {
    finish_();
    return true;
  }

 private:
  std::function<void()> finish_;
};

// Notes every call. Whatever is sent to a peer comes back from it, as if it sent the same.
class NotingBackend : public c10d::Backend {
 public:
  NotingBackend(std::string name, bool coalesces, int rank, int size)
      : Backend(rank, size), name_(std::move(name)), coalesces_(coalesces) {}

  const std::string getBackendName() const override { return name_; }
  bool supportsCoalescing() const override { return coalesces_; }
  void startCoalescing() override { calls.emplace_back("start"); }
  c10::intrusive_ptr<c10d::Work> endCoalescing() override {
    calls.emplace_back("end");
    return work([] {});
  }
  c10::intrusive_ptr<c10d::Work> send(std::vector<at::Tensor>& tensors, int to, int) override {
    calls.push_back(c10::str("send ", to));
    on_the_way_[to].push_back(tensors.at(0).clone());
    return work([] {});
  }
  c10::intrusive_ptr<c10d::Work> recv(std::vector<at::Tensor>& tensors, int from, int) override {
    calls.push_back(c10::str("recv ", from));
    return work([this, target = tensors.at(0), from] {
      std::deque<at::Tensor>& queue = on_the_way_[from];
      target.narrow(0, 0, queue.front().numel()).copy_(queue.front());
      queue.pop_front();
    });
  }
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>&, const c10d::AllreduceOptions&) override {
    calls.emplace_back("allreduce");
    return work([] {});
  }

  Calls calls;

 private:
  c10::intrusive_ptr<c10d::Work> work(std::function<void()> finish) {
    return c10::make_intrusive<NotedWork>([this, finish = std::move(finish)] {
      calls.emplace_back("wait");
      finish();
    });
  }

  std::string name_;
  bool coalesces_;
  std::map<int, std::deque<at::Tensor>> on_the_way_;
};

// Rank 1 of a group of three whose messages on `device` go by a NotingBackend.
class NotedGroup {
 public:
  NotedGroup(const char* backend, bool coalesces, c10::DeviceType device)
      : backend_(c10::make_intrusive<NotingBackend>(backend, coalesces, 1, 3)),
        group_(c10::make_intrusive<c10d::ProcessGroup>(1, 3)) {
    group_->setBackend(device, c10d::ProcessGroup::BackendType::CUSTOM, backend_);
    group_->setDefaultBackend(c10d::ProcessGroup::BackendType::CUSTOM);
    group_->setGroupName(name);
    c10d::register_process_group(name, group_);
  }
  NotedGroup(const NotedGroup&) = delete;
  NotedGroup& operator=(const NotedGroup&) = delete;
  ~NotedGroup() { c10d::unregister_process_group(name); }

  [[nodiscard]] static Domain domain() { return Domain::from_group_name(name); }
  /// The calls since the last time.
  [[nodiscard]] Calls calls() { return std::exchange(backend_->calls, {}); }

 private:
  static constexpr const char* name = "noted calls";
  c10::intrusive_ptr<NotingBackend> backend_;
  c10::intrusive_ptr<c10d::ProcessGroup> group_;
};

// A message to each neighbour and one from it.
PendingExchange exchange_on(const Domain& domain, const at::Device& device) {
  std::vector<Message> sends;
  std::vector<Message> receives;
  for (const int peer : {0, 2}) {
    sends.push_back({peer, make_buffer({7}, device, at::kFloat, {5})});
    receives.push_back({peer, make_buffer({7}, device, at::kFloat, {5})});
  }
  return start_exchange(domain, std::move(sends), std::move(receives), "halo");
}

const Calls receives_then_sends{"recv 0", "recv 2", "send 0", "send 2"};
const Calls four_waits(4, "wait");

Calls operator+(Calls calls, const Calls& more) {
  calls.insert(calls.end(), more.begin(), more.end());
  return calls;
}

TEST(TransportCalls, EveryReceiveIsPostedBeforeTheFirstSendAndNoneIsWaitedForBefore) {
  NotedGroup group("noting", /*coalesces=*/false, at::kCPU);
  PendingExchange pending = exchange_on(NotedGroup::domain(), at::kCPU);
  EXPECT_EQ(group.calls(), receives_then_sends);
  pending.wait();
  EXPECT_EQ(group.calls(), four_waits);
}

TEST(TransportCalls, OverGlooAnnouncementsGoFirstOnceAndInTheSameOrder) {
  NotedGroup group("gloo", /*coalesces=*/false, at::kCPU);
  PendingExchange first = exchange_on(NotedGroup::domain(), at::kCPU);
  EXPECT_EQ(group.calls(), receives_then_sends + four_waits + receives_then_sends);
  first.wait();
  EXPECT_EQ(group.calls(), four_waits);
  PendingExchange second = exchange_on(NotedGroup::domain(), at::kCPU);
  EXPECT_EQ(group.calls(), receives_then_sends);
  second.wait();
}

// The meta device stands for one whose transport makes batches: NCCL on a GPU.
TEST(TransportCalls, AnExchangeIsOneBatchWhereTheTransportMakesBatches) {
  NotedGroup group("noting", /*coalesces=*/true, at::kMeta);
  const Domain domain = NotedGroup::domain();
  const Calls batch = Calls{"start"} + receives_then_sends + Calls{"end"};
  for (int call = 0; call < 2; ++call) {
    PendingExchange pending = exchange_on(domain, at::kMeta);
    EXPECT_EQ(group.calls(), batch);
    pending.wait();
    EXPECT_EQ(group.calls(), Calls{"wait"}) << "one work for the batch";
  }
}

TEST(TransportCalls, OneWayAndNothingAreBatchesTooOrNone) {
  NotedGroup group("noting", /*coalesces=*/true, at::kMeta);
  const Domain domain = NotedGroup::domain();
  const at::Tensor buffer = make_buffer({7}, at::kMeta, at::kFloat, {5});
  start_exchange(domain, {{2, buffer}}, {}, "one way").wait();
  EXPECT_EQ(group.calls(), (Calls{"start", "send 2", "end", "wait"}));
  start_exchange(domain, {}, {{0, buffer}}, "one way").wait();
  EXPECT_EQ(group.calls(), (Calls{"start", "recv 0", "end", "wait"}));
  start_exchange(domain, {}, {}, "nothing").wait();
  EXPECT_EQ(group.calls(), Calls{});
}

// Every rank makes the transport's first call, which connects them; the first exchange need not be everybody's.
TEST(TransportCalls, RanksMeetOnceBeforeTheFirstBatch) {
  NotedGroup group("noting", /*coalesces=*/true, at::kMeta);
  const Domain domain = NotedGroup::domain();
  const at::Tensor parts = at::zeros({6}, at::TensorOptions().dtype(at::kFloat).device(at::kMeta));
  const Calls batch = Calls{"start"} + receives_then_sends + Calls{"end", "wait"};
  const auto swap = [&] { return all_to_all(domain, parts, {2, 2, 2}, {2, 2, 2}, "swap"); };
  EXPECT_EQ(swap().numel(), 6);
  EXPECT_EQ(group.calls(), (Calls{"allreduce", "wait"} + batch));
  EXPECT_EQ(swap().numel(), 6);
  EXPECT_EQ(group.calls(), batch);
}

}  // namespace
}  // namespace graticule::comm

#include "graticule/comm/thread_group.hpp"

#include <ATen/ATen.h>

#include <functional>
#include <map>
#include <mutex>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <utility>

#include "comm/mailbox.hpp"

namespace graticule::comm {
namespace {

using c10d::Work;

constexpr std::chrono::milliseconds patience = std::chrono::minutes(5);

// Done when `finish` has run, which waits for the other threads.
class ThreadWork : public Work {
 public:
  explicit ThreadWork(std::function<void(std::chrono::milliseconds)> finish) : finish_(std::move(finish)) {}
  bool wait(std::chrono::milliseconds timeout) override {
    if (finish_) finish_(timeout == kNoTimeout ? patience : timeout);
    finish_ = nullptr;
    return true;
  }
  bool isCompleted() override { return !finish_; }
  bool isSuccess() const override { return !finish_; }

 private:
  std::function<void(std::chrono::milliseconds)> finish_;
};

c10::intrusive_ptr<Work> work(std::function<void(std::chrono::milliseconds)> finish) {
  return c10::make_intrusive<ThreadWork>(std::move(finish));
}

void deliver(const at::Tensor& message, at::Tensor& target, int source) {
  TORCH_CHECK(message.nbytes() <= target.nbytes(), "a message of ", message.nbytes(), " bytes from rank ", source,
              " does not fit the ", target.nbytes(), " bytes expected");
  target.view(-1)
      .view(at::kByte)
      .narrow(0, 0, static_cast<int64_t>(message.nbytes()))
      .copy_(message.view(-1).view(at::kByte));
}

class ThreadBackend : public c10d::Backend {
 public:
  ThreadBackend(const std::string& world, int rank, int size)
      : Backend(rank, size), mailbox_(Mailbox::of_world(world, size)) {}

  const std::string getBackendName() const override { return thread_backend_name; }

  c10::intrusive_ptr<Work> send(std::vector<at::Tensor>& tensors, int to, int tag) override {
    mailbox_->put({rank_, to, tag}, tensors.at(0).detach().clone());
    return work(nullptr);
  }

  c10::intrusive_ptr<Work> recv(std::vector<at::Tensor>& tensors, int from, int tag) override {
    return work([next = claim(from, tag), target = tensors.at(0), from](std::chrono::milliseconds timeout) mutable {
      deliver(next(timeout), target, from);
    });
  }

  c10::intrusive_ptr<Work> allgather(std::vector<std::vector<at::Tensor>>& outputs, std::vector<at::Tensor>& inputs,
                                     const c10d::AllgatherOptions&) override {
    post_to_all(inputs.at(0));
    return work([rank = rank_, parts = claim_from_all(), targets = outputs.at(0),
                 own = inputs.at(0)](std::chrono::milliseconds timeout) mutable {
      for (int source = 0; source < static_cast<int>(parts.size()); ++source) {
        if (source == rank) {
          targets.at(source).copy_(own);
        } else {
          deliver(parts[source](timeout), targets.at(source), source);
        }
      }
    });
  }

  c10::intrusive_ptr<Work> allreduce(std::vector<at::Tensor>& tensors, const c10d::AllreduceOptions& options) override {
    TORCH_CHECK(options.reduceOp == c10d::ReduceOp::SUM, "threads as ranks add, and reduce by nothing else");
    post_to_all(tensors.at(0));
    return work(
        [rank = rank_, parts = claim_from_all(), target = tensors.at(0)](std::chrono::milliseconds timeout) mutable {
          const at::Tensor own = target.clone();
          at::Tensor part = at::empty_like(own);
          for (int source = 0; source < static_cast<int>(parts.size()); ++source) {
            if (source != rank) deliver(parts[source](timeout), part, source);
            const at::Tensor& next = source == rank ? own : part;
            source == 0 ? target.copy_(next) : target.add_(next);
          }
        });
  }

  c10::intrusive_ptr<Work> broadcast(std::vector<at::Tensor>& tensors, const c10d::BroadcastOptions& options) override {
    const int root = static_cast<int>(options.rootRank);
    if (root == rank_) {
      post_to_all(tensors.at(0));
      return work(nullptr);
    }
    return work([next = claim(root, collective_tag), target = tensors.at(0),
                 root](std::chrono::milliseconds timeout) mutable { deliver(next(timeout), target, root); });
  }

  c10::intrusive_ptr<Work> barrier(const c10d::BarrierOptions&) override {
    std::vector<at::Tensor> mine{at::zeros({1}, at::kByte)};
    std::vector<std::vector<at::Tensor>> all(1);
    for (int rank = 0; rank < size_; ++rank) all[0].push_back(at::zeros({1}, at::kByte));
    return allgather(all, mine, {});
  }

 private:
  static constexpr int64_t collective_tag = -1;

  using Incoming = std::function<at::Tensor(std::chrono::milliseconds)>;

  // A place in the queue of what comes from `from`, taken now, and how to wait for it.
  Incoming claim(int from, int64_t tag) {
    const Mailbox::Address address{from, rank_, tag};
    return [mailbox = mailbox_, address, number = mailbox_->claim(address)](std::chrono::milliseconds timeout) {
      return mailbox->take(address, number, timeout);
    };
  }

  // One place for each rank; the own one stays empty.
  std::vector<Incoming> claim_from_all() {
    std::vector<Incoming> result(size_);
    for (int rank = 0; rank < size_; ++rank) {
      if (rank != rank_) result[rank] = claim(rank, collective_tag);
    }
    return result;
  }

  void post_to_all(const at::Tensor& message) {
    const at::Tensor copy = message.detach().contiguous().clone();
    for (int rank = 0; rank < size_; ++rank) {
      if (rank != rank_) mailbox_->put({rank_, rank, collective_tag}, copy);
    }
  }

  std::shared_ptr<Mailbox> mailbox_;
};

std::mutex groups_mutex;

std::map<std::string, c10::intrusive_ptr<c10d::ProcessGroup>>& groups() {
  static std::map<std::string, c10::intrusive_ptr<c10d::ProcessGroup>> all;
  return all;
}

}  // namespace

std::string create_thread_group(const std::string& world, int rank, int size) {
  TORCH_CHECK_VALUE(size >= 1 && rank >= 0 && rank < size, "a thread group needs a rank in [0, ", size, "), got ",
                    rank);
  const std::string name = c10::str("graticule_threads:", world, ":", rank);
  const std::lock_guard lock(groups_mutex);
  TORCH_CHECK_VALUE(groups().count(name) == 0, "the thread group ", name, " exists already");
  auto group = c10::make_intrusive<c10d::ProcessGroup>(rank, size);
  const auto backend = c10::make_intrusive<ThreadBackend>(world, rank, size);
  group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::CUSTOM,
                    c10::intrusive_ptr<c10d::Backend>(backend));
  group->setDefaultBackend(c10d::ProcessGroup::BackendType::CUSTOM);
  group->setGroupName(name);
  c10d::register_process_group(name, group);
  groups().emplace(name, std::move(group));
  return name;
}

void destroy_thread_group(const std::string& name) {
  const std::lock_guard lock(groups_mutex);
  if (groups().count(name) == 0) return;
  c10d::unregister_process_group(name);
  groups().erase(name);
}

}  // namespace graticule::comm

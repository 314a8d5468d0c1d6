// Where threads leave messages for each other.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>

namespace graticule::comm {

/// The messages between the threads of one world, in order for each sender, receiver and tag.
class Mailbox {
 public:
  using Address = std::tuple<int, int, int64_t>;  // from, to, tag

  /// The mailbox of a world of `size` threads: the same one for each of the `size` calls with that name. It outlives a
  /// rank that is done before another one asks.
  static std::shared_ptr<Mailbox> of_world(const std::string& world, int size);

  void put(const Address& address, at::Tensor message);
  /// The number of the next message that nobody has claimed: receives may be waited for in any order.
  uint64_t claim(const Address& address);
  /// The message of that number. Throws c10::Error after `timeout`.
  at::Tensor take(const Address& address, uint64_t number, std::chrono::milliseconds timeout);

 private:
  struct Queue {
    std::map<uint64_t, at::Tensor> messages;
    uint64_t put = 0;
    uint64_t claimed = 0;
  };

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<Address, Queue> queues_;
};

}  // namespace graticule::comm

// Messages between ranks, all of an exchange posted together.
//
// A message on the CPU travels behind a header that says what it is: transports deliver a message that is shorter than
// the receiver expects without a word, and two ranks that disagree may well send messages of equal size. A message on
// another device has no header, since reading it would wait for the device.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <vector>

#include "graticule/comm/domain.hpp"
#include "graticule/comm/turn.hpp"

namespace graticule::comm {

/// What both sides must agree on: a hash of the layer's name, the dtype, the sizes.
struct MessageTag {
  uint64_t hash = 0;
};

/// Where messages with values of `device` lie: there, if the group's transport for it takes them from its memory (NCCL;
/// MPI where it can), else on the CPU (Gloo). Every rank must call with equal arguments: the first call for a device
/// brings the ranks together.
at::Device message_device(const Domain& domain, const at::Device& device);

/// Memory for a message of this dtype and shape on a device from message_device: bytes, with room for the header on the
/// CPU.
at::Tensor make_buffer(const MessageTag& tag, const at::Device& device, at::ScalarType dtype, at::IntArrayRef shape);

/// The message's values within its buffer, from number `first` on: on the buffer's device.
at::Tensor payload(const at::Tensor& buffer, at::ScalarType dtype, at::IntArrayRef shape, int64_t first = 0);

struct Message {
  int peer = 0;       ///< rank in the domain
  at::Tensor buffer;  ///< from make_buffer
};

/// An exchange under way. Holds its buffers, and the domain for the thread that started it.
class PendingExchange {
 public:
  /// Returns when every message has gone and come. Throws within the domain's timeout where a peer does not answer, has
  /// failed, or sends something else; the domain is dead then on this rank, and its peers are told.
  void wait();

  /// Has the transport move the messages while this thread does other work, where it does not do so by itself. Costs
  /// more than a short wait: for when the work is long.
  void keep_moving();

 private:
  friend PendingExchange start_exchange(const Domain&, std::vector<Message>, std::vector<Message>, std::string);
  [[nodiscard]] std::string work_text(size_t i) const;

  std::vector<Message> sends_, receives_;
  std::vector<at::Tensor> landings_;  // where the transport writes what is received: the buffer, or a larger one
  std::vector<c10::intrusive_ptr<c10d::Work>> works_;
  std::vector<uint64_t> expected_;
  uint64_t drawn_ = 0;
  std::vector<MessageTag> tags_;
  std::string what_;
  std::optional<Domain> domain_;
  Turn turn_;
  std::chrono::milliseconds timeout_{0};
};

/// Posts the receives, then the sends. At most one message to and from each peer. `what` names the layer in errors.
/// Throws where another thread's exchange over the domain is under way.
PendingExchange start_exchange(const Domain& domain, std::vector<Message> sends, std::vector<Message> receives,
                               std::string what);

/// Tells the other ranks, as well as can be done without their help, that this one has failed, so that they need not
/// wait for the timeout. The domain is dead on this rank after that: every later call throws `why`.
void poison(const Domain& domain, const std::string& why);

/// Notes that this rank drew random numbers, from `seed`, for its part of a tensor. Ranks that draw differently, or not
/// all of which draw, raise at the next message between two of them; on a GPU, in check mode alone.
void note_draw(const Domain& domain, int64_t seed);

/// What this process has sent so far, over all its domains: as Domain counts it for one.
uint64_t bytes_sent();
uint64_t messages_sent();

}  // namespace graticule::comm

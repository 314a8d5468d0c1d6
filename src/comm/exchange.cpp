#include "graticule/comm/exchange.hpp"

#include <ATen/ATen.h>

#include <atomic>
#include <cstring>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <utility>

#include "comm/announcements.hpp"
#include "comm/buffer_pool.hpp"
#include "comm/domain_state.hpp"
#include "comm/failure.hpp"
#include "comm/message_header.hpp"
#include "comm/moved_by_calls.hpp"
#include "comm/reason.hpp"
#include "comm/traffic.hpp"
#include "comm/transports.hpp"
#include "graticule/comm/facts.hpp"

namespace graticule::comm {
namespace {

std::atomic<uint64_t> sent_bytes{0};
std::atomic<uint64_t> sent_messages{0};

void check_header(const Domain& domain, const Message& message, const MessageTag& tag, uint64_t sequence,
                  uint64_t drawn, const std::string& what) {
  const MessageHeader& header = header_of(message.buffer);
  const uint64_t bytes = message.buffer.numel() - header_bytes;
  if (header.magic == MessageHeader::magic_number && header.kind == MessageKind::poison) {
    fail(domain, c10::str(what, ": rank ", header.source, " failed; its own error says why", where(domain)));
  }
  if (header.kind == MessageKind::announce) {
    fail(domain, c10::str(what, ": rank ", message.peer,
                          " announces a message of another shape, dtype or layer: the ranks "
                          "do not make the same calls",
                          where(domain)));
  }
  if (header.magic != MessageHeader::magic_number || header.bytes != bytes) {
    fail(domain, c10::str(what, ": expected ", bytes, " bytes from rank ", message.peer, ", got ",
                          header.magic == MessageHeader::magic_number ? std::to_string(header.bytes) : "others",
                          ": the ranks disagree about the shapes", where(domain)));
  }
  if (header.tag != tag.hash || header.sequence != sequence) {
    fail(domain,
         c10::str(what, ": rank ", message.peer, " sent a message of another layer, shape or dtype (its number ",
                  header.sequence, ", here ", sequence, "): the ranks do not make the same calls", where(domain)));
  }
  if (header.drawn != drawn) {
    fail(domain,
         c10::str(what, ": rank ", message.peer,
                  " has drawn other random numbers for tensors that the ranks share: seed the ranks' generators "
                  "alike, and draw on all ranks or on none",
                  where(domain)));
  }
}

}  // namespace

void count_sent(const Domain& domain, uint64_t bytes, uint64_t messages) {
  Domain::State& state = domain.state();
  // Nobody waits for another by these numbers.
  constexpr auto order = std::memory_order_relaxed;
  state.bytes_sent.fetch_add(bytes, order);
  state.messages_sent.fetch_add(messages, order);
  sent_bytes.fetch_add(bytes, order);
  sent_messages.fetch_add(messages, order);
}
uint64_t bytes_sent() { return sent_bytes; }
uint64_t messages_sent() { return sent_messages; }

at::Tensor make_buffer(const MessageTag& tag, const at::Device& device, at::ScalarType dtype, at::IntArrayRef shape) {
  const int64_t values = c10::multiply_integers(shape) * static_cast<int64_t>(c10::elementSize(dtype));
  if (!device.is_cpu()) return at::empty({values}, at::TensorOptions().dtype(at::kByte).device(device));
  at::Tensor buffer = take_buffer(header_bytes + values);
  std::memset(buffer.mutable_data_ptr(), 0, header_bytes);
  MessageHeader& header = header_of(buffer);
  header.tag = tag.hash;
  header.bytes = static_cast<uint64_t>(values);
  return buffer;
}

// One tensor over the buffer's memory; three views of it would cost as much as a small message.
at::Tensor payload(const at::Tensor& buffer, at::ScalarType dtype, at::IntArrayRef shape, int64_t first) {
  const int64_t skip = has_header(buffer) ? header_bytes : 0;
  at::Tensor values = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(buffer.storage()), buffer.key_set(),
                                                               c10::scalarTypeToTypeMeta(dtype));
  values.unsafeGetTensorImpl()->set_storage_offset(skip / static_cast<int64_t>(c10::elementSize(dtype)) + first);
  values.unsafeGetTensorImpl()->set_sizes_contiguous(shape);
  return values;
}

PendingExchange start_exchange(const Domain& domain, std::vector<Message> sends, std::vector<Message> receives,
                               std::string what) {
  check_alive(domain);
  PendingExchange pending;
  pending.what_ = std::move(what);
  pending.domain_ = domain;
  if (sends.empty() && receives.empty()) return pending;
  pending.turn_ = Turn(domain, pending.what_);
  Domain::State& state = domain.state();
  const at::Device device = sends.empty() ? receives[0].buffer.device() : sends[0].buffer.device();
  const auto backend = transport(domain, device, pending.what_);
  pending.timeout_ = patience(domain, *backend, device);
  const bool coalesce = !device.is_cpu() && backend->supportsCoalescing();
  pending.drawn_ = state.drawn;
  const bool announces = device.is_cpu() && must_announce(*backend);
  if (announces) announce(domain, *backend, sends, receives, pending.what_);
  try {
    if (coalesce) backend->startCoalescing();
    for (Message& message : receives) {
      if (has_header(message.buffer)) {
        MessageHeader& header = header_of(message.buffer);
        pending.tags_.push_back({header.tag});
        header = MessageHeader{};
      } else {
        pending.tags_.push_back({});
      }
      pending.expected_.push_back(state.count_received(message.peer));
      pending.landings_.push_back(announces ? landing(domain, message) : message.buffer);
      std::vector<at::Tensor> tensors{pending.landings_.back()};
      pending.works_.push_back(backend->recv(tensors, message.peer, transport_tag));
    }
    for (Message& message : sends) {
      const uint64_t sequence = state.count_sent(message.peer);
      if (has_header(message.buffer)) {
        MessageHeader& header = header_of(message.buffer);
        header.magic = MessageHeader::magic_number;
        header.kind = MessageKind::data;
        header.sequence = sequence;
        header.drawn = pending.drawn_;
        header.source = domain.rank();
      }
      count_sent(domain, message.buffer.numel() - (has_header(message.buffer) ? header_bytes : 0), 1);
      std::vector<at::Tensor> tensors{message.buffer};
      pending.works_.push_back(backend->send(tensors, message.peer, transport_tag));
    }
    if (coalesce) {
      pending.works_.clear();
      pending.works_.push_back(backend->endCoalescing());
    }
  } catch (const std::exception& error) {
    fail(domain, c10::str(pending.what_, ": ", reason(error), where(domain)));
  }
  pending.sends_ = std::move(sends);
  pending.receives_ = std::move(receives);
  return pending;
}

void PendingExchange::wait() {
  if (!domain_.has_value()) return;
  const Domain domain = *domain_;
  domain_.reset();
  for (size_t i = 0; i < works_.size(); ++i) {
    try {
      if (works_[i]) works_[i]->wait(timeout_);
    } catch (const std::exception& error) {
      fail(domain, c10::str(what_, ": ", work_text(i), ": ", reason(error), where(domain)));
    }
    if (i >= receives_.size()) continue;
    at::Tensor& buffer = receives_[i].buffer;
    if (!buffer.is_same(landings_[i])) buffer.copy_(landings_[i].narrow(0, 0, buffer.numel()));
    if (has_header(buffer)) {
      check_header(domain, receives_[i], tags_[i], expected_[i], drawn_, what_);
    }
  }
  works_.clear();
  turn_.end();
}

void PendingExchange::keep_moving() {
  for (const auto& work : works_) {
    if (auto* const moving = dynamic_cast<MovedByCalls*>(work.get())) moving->keep_moving();
  }
}

std::string PendingExchange::work_text(size_t i) const {
  if (i < receives_.size()) return c10::str("waiting for rank ", receives_[i].peer);
  const size_t sent = i - receives_.size();
  return sent < sends_.size() ? c10::str("sending to rank ", sends_[sent].peer) : "exchanging";
}

void note_draw(const Domain& domain, int64_t seed) {
  std::atomic<uint64_t>& drawn = domain.state().drawn;
  drawn = Facts().add(static_cast<int64_t>(drawn.load())).add(seed).hash();
}

void poison(const Domain& domain, const std::string& why) {
  Domain::State& state = domain.state();
  {
    const std::lock_guard lock(state.mutex);
    if (!state.failure.empty()) return;
    state.failure = why;
  }
  for (int peer = 0; peer < domain.size(); ++peer) {
    if (peer == domain.rank()) continue;
    try {
      at::Tensor buffer = make_buffer({}, at::kCPU, at::kByte, {0});
      MessageHeader& header = header_of(buffer);
      header.magic = MessageHeader::magic_number;
      header.kind = MessageKind::poison;
      header.source = domain.rank();
      std::vector<at::Tensor> tensors{buffer};
      auto work = domain.group()->getBackend(c10::DeviceType::CPU)->send(tensors, peer, transport_tag);
      const std::lock_guard lock(state.mutex);
      state.last_words.emplace_back(std::move(buffer), std::move(work));
    } catch (const std::exception&) {
      // The peer cannot be told; it learns of the failure by its own timeout.
    }
  }
}

}  // namespace graticule::comm

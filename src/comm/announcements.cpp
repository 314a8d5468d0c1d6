#include "comm/announcements.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "comm/domain_state.hpp"
#include "comm/failure.hpp"
#include "comm/message_header.hpp"
#include "comm/reason.hpp"
#include "graticule/comm/facts.hpp"

namespace graticule::comm {
namespace {

// Both sides forget at the same number, so that they go on remembering the same.
constexpr size_t most_remembered = 4096;

uint64_t kind_of(const Message& message) {
  const MessageHeader& header = header_of(message.buffer);
  return Facts().add(static_cast<int64_t>(header.tag)).add(static_cast<int64_t>(header.bytes)).hash();
}

// Remembers the kind; true where it is new.
bool is_new(std::unordered_set<uint64_t>& known, uint64_t kind) {
  if (known.count(kind) != 0) return false;
  if (known.size() >= most_remembered) known.clear();
  known.insert(kind);
  return true;
}

at::Tensor bytes(int64_t count) { return at::empty({count}, at::kByte); }

void check_announcement(const Domain& domain, const MessageHeader& came, const Message& message,
                        const std::string& what) {
  const MessageHeader& expected = header_of(message.buffer);
  if (came.magic == MessageHeader::magic_number && came.kind == MessageKind::poison) {
    fail(domain, c10::str(what, ": rank ", came.source, " failed; its own error says why", where(domain)));
  }
  if (came.magic != MessageHeader::magic_number || came.kind != MessageKind::announce || came.tag != expected.tag ||
      came.bytes != expected.bytes) {
    const std::string got = came.magic != MessageHeader::magic_number || came.bytes == expected.bytes
                                ? "one of another layer, shape or dtype"
                                : c10::str("one of ", came.bytes);
    fail(domain, c10::str(what, ": expected a message of ", expected.bytes, " bytes from rank ", message.peer, ", got ",
                          got, ": the ranks do not make the same calls", where(domain)));
  }
}

}  // namespace

bool must_announce(const c10d::Backend& backend) { return backend.getBackendName() == "gloo"; }

void announce(const Domain& domain, c10d::Backend& backend, const std::vector<Message>& sends,
              const std::vector<Message>& receives, const std::string& what) {
  const std::chrono::milliseconds timeout = domain.timeout();
  Domain::State& state = domain.state();
  std::vector<std::pair<const Message*, at::Tensor>> fresh;
  std::vector<at::Tensor> kept;
  std::vector<c10::intrusive_ptr<c10d::Work>> works;
  try {
    for (const Message& message : receives) {
      const std::lock_guard lock(state.mutex);
      if (!is_new(state.announcements.by[message.peer], kind_of(message))) continue;
      std::vector<at::Tensor> room{bytes(std::max(header_bytes, state.announcements.largest[message.peer]))};
      works.push_back(backend.recv(room, message.peer, transport_tag));
      fresh.emplace_back(&message, room[0]);
    }
    for (const Message& message : sends) {
      const std::lock_guard lock(state.mutex);
      if (!is_new(state.announcements.to[message.peer], kind_of(message))) continue;
      std::vector<at::Tensor> note{bytes(header_bytes)};
      MessageHeader& header = header_of(note[0]);
      header = header_of(message.buffer);
      header.magic = MessageHeader::magic_number;
      header.kind = MessageKind::announce;
      header.source = domain.rank();
      works.push_back(backend.send(note, message.peer, transport_tag));
      kept.push_back(note[0]);
    }
    for (const auto& work : works) work->wait(timeout);
  } catch (const std::exception& error) {
    fail(domain, c10::str(what, ": announcing a message: ", reason(error), where(domain)));
  }
  for (const auto& [message, room] : fresh) {
    check_announcement(domain, header_of(room), *message, what);
    const std::lock_guard lock(state.mutex);
    int64_t& largest = state.announcements.largest[message->peer];
    largest = std::max(largest, message->buffer.numel());
  }
}

at::Tensor landing(const Domain& domain, const Message& message) {
  Domain::State& state = domain.state();
  const std::lock_guard lock(state.mutex);
  const int64_t largest = state.announcements.largest[message.peer];
  return largest > message.buffer.numel() ? bytes(largest) : message.buffer;
}

}  // namespace graticule::comm

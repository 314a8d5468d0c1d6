// What the ranks' traffic over one group has come to.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "graticule/comm/domain.hpp"

namespace graticule::comm {

/// What has been announced to and by each rank, where messages must be announced (announcements.hpp).
struct Announcements {
  std::vector<std::unordered_set<uint64_t>> to, by;
  std::vector<int64_t> largest;  ///< bytes of the largest message announced by each rank
};

struct Domain::State {
  std::string name;
  c10::weak_intrusive_ptr<c10d::ProcessGroup> group;  // no ownership: a program must be able to take its group down
  int rank = 0;
  int size = 1;

  explicit State(const c10::intrusive_ptr<c10d::ProcessGroup>& of) : group(of) {}

  /// Counts one more message to or from `peer`; how many there were before.
  uint64_t count_sent(int peer) {
    const std::lock_guard lock(mutex);
    return sent[peer]++;
  }
  uint64_t count_received(int peer) {
    const std::lock_guard lock(mutex);
    return received[peer]++;
  }

  std::atomic<uint64_t> bytes_sent{0}, messages_sent{0};  // of payload, so far
  std::atomic<uint64_t> drawn{0};                         // a hash of the seeds of all draws so far (note_draw)

  std::mutex mutex;                      // guards what follows
  std::thread::id user;                  // the thread that uses the domain
  int turns = 0;                         // its exchanges under way (turn.hpp)
  std::vector<uint64_t> sent, received;  // messages to and from each rank so far
  Announcements announcements;
  // As the group has them; no ownership here either.
  std::unordered_map<c10::DeviceType, c10::weak_intrusive_ptr<c10d::Backend>> backends;
  std::unordered_set<at::Device> connected;  // devices for which all ranks have met (transports.cpp)
  std::string failure;                       // why the domain is dead, empty while it is not
  // Poison under way. Nobody waits for it, so what a transport sends must stay: to a late peer, too.
  std::vector<std::pair<at::Tensor, c10::intrusive_ptr<c10d::Work>>> last_words;
};

/// Throws the reason if the domain has failed before.
void check_alive(const Domain& domain);

}  // namespace graticule::comm

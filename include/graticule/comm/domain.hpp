// The process group over which one sample is cut, as one of its ranks sees it.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

namespace graticule::comm {

/// A process group of c10d, found by the name it is registered under. Cheap to copy. Ranks count within the group.
/// The registry holds no ownership: whoever made the group keeps it alive.
class Domain {
 public:
  /// Throws c10::Error where no group of that name is registered in this process. "NAME, rank R of N" is the group NAME
  /// for code that was traced on that rank, and an error on another one: what its rows are depends on the rank.
  static Domain from_group_name(const std::string& text);

  [[nodiscard]] const std::string& name() const;
  [[nodiscard]] int rank() const;
  [[nodiscard]] int size() const;
  [[nodiscard]] const c10::intrusive_ptr<c10d::ProcessGroup>& group() const;

  /// How long a rank waits for another one: the environment's GRATICULE_TIMEOUT in seconds, 60 unless set.
  /// Throws c10::ValueError where that is no number over 0.
  [[nodiscard]] std::chrono::milliseconds timeout() const;

  /// Bytes of payload that this rank has sent over the group by exchanges and collectives so far: no headers, and none
  /// of Gloo's announcements. What a transport adds up by itself counts once.
  [[nodiscard]] uint64_t bytes_sent() const;
  /// Messages, as bytes_sent counts them; a transport's own collective counts as one to each other rank.
  [[nodiscard]] uint64_t messages_sent() const;

  struct State;
  [[nodiscard]] State& state() const { return *state_; }

 private:
  Domain(std::shared_ptr<State> state, c10::intrusive_ptr<c10d::ProcessGroup> group);
  static Domain from_plain_name(const std::string& name);
  std::shared_ptr<State> state_;
  c10::intrusive_ptr<c10d::ProcessGroup> group_;
};

/// " (rank 1 of 4)", for the end of an error.
std::string where(const Domain& domain);

}  // namespace graticule::comm

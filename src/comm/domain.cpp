#include "graticule/comm/domain.hpp"

#include <algorithm>
#include <cstdlib>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <unordered_map>
#include <utility>

#include "comm/domain_state.hpp"

namespace graticule::comm {

Domain::Domain(std::shared_ptr<State> state, c10::intrusive_ptr<c10d::ProcessGroup> group)
    : state_(std::move(state)), group_(std::move(group)) {}

Domain Domain::from_group_name(const std::string& text) {
  // Traced code names its rank with the group.
  const size_t place = text.rfind(", rank ");
  if (place == std::string::npos) return from_plain_name(text);
  Domain domain = from_plain_name(text.substr(0, place));
  const std::string here = c10::str(domain.name(), ", rank ", domain.rank(), " of ", domain.size());
  TORCH_CHECK(text == here, "code that was traced on ", text, " runs on ", here,
              ": compile or export it on the rank that runs it");
  return domain;
}

Domain Domain::from_plain_name(const std::string& name) {
  static std::mutex mutex;
  static std::unordered_map<std::string, std::shared_ptr<State>> states;
  auto group = c10d::resolve_process_group(name);
  const std::lock_guard lock(mutex);
  auto& state = states[name];
  // A name may be registered anew for another group: its traffic counts from zero.
  if (!state || state->group.lock() != group) {
    state = std::make_shared<State>(group);
    state->name = name;
    state->rank = group->getRank();
    state->size = group->getSize();
    state->sent.resize(state->size);
    state->received.resize(state->size);
    state->announcements.to.resize(state->size);
    state->announcements.by.resize(state->size);
    state->announcements.largest.resize(state->size);
  }
  return Domain(state, std::move(group));
}

const std::string& Domain::name() const { return state_->name; }
int Domain::rank() const { return state_->rank; }
int Domain::size() const { return state_->size; }
uint64_t Domain::bytes_sent() const { return state_->bytes_sent; }
uint64_t Domain::messages_sent() const { return state_->messages_sent; }
const c10::intrusive_ptr<c10d::ProcessGroup>& Domain::group() const { return group_; }

std::string where(const Domain& domain) { return c10::str(" (rank ", domain.rank(), " of ", domain.size(), ")"); }

std::chrono::milliseconds Domain::timeout() const {
  // Read at every call: a program may set it after the library is loaded.
  const char* text = std::getenv("GRATICULE_TIMEOUT");
  if (text == nullptr || *text == '\0') return std::chrono::seconds(60);
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  TORCH_CHECK_VALUE(*end == '\0' && seconds > 0, "GRATICULE_TIMEOUT: expected a number of seconds over 0, got ", text,
                    where(*this));
  constexpr double year = 365 * 86400.0;
  // None at all is no limit, to a process group.
  return std::chrono::milliseconds(std::max<int64_t>(1, static_cast<int64_t>(std::min(seconds, year) * 1000)));
}

void check_alive(const Domain& domain) {
  Domain::State& state = domain.state();
  const std::lock_guard lock(state.mutex);
  TORCH_CHECK(state.failure.empty(), "the domain ", state.name, " failed before on rank ", state.rank, ": ",
              state.failure);
}

}  // namespace graticule::comm

#include "graticule/comm/turn.hpp"

#include <c10/util/StringUtil.h>

#include "comm/domain_state.hpp"
#include "comm/failure.hpp"

namespace graticule::comm {

Turn::Turn(const Domain& domain, const std::string& what) {
  Domain::State& state = domain.state();
  const std::thread::id here = std::this_thread::get_id();
  {
    const std::lock_guard lock(state.mutex);
    if (state.turns == 0 || state.user == here) {
      state.user = here;
      ++state.turns;
      domain_ = domain;
      return;
    }
  }
  fail(domain, c10::str(what, ": two threads of this process use the domain at once; expected one at a time, or a ",
                        "domain for each", where(domain)));
}

void Turn::end() noexcept {
  if (!domain_.has_value()) return;
  {
    Domain::State& state = domain_->state();
    const std::lock_guard lock(state.mutex);
    --state.turns;
  }
  domain_.reset();
}

}  // namespace graticule::comm

// Messages announced before they are sent, for transports that do not survive a message of another size.
//
// Gloo ends the process when a message is longer than the memory it is received into. So over Gloo the first message of
// each kind (tag and size) to a rank is announced by its header alone. Both sides remember what was announced, and a
// receiver makes its memory as large as the largest message that the sender has announced: whatever arrives fits, and
// its header tells whether it is the one expected. Steady traffic costs nothing more.
#pragma once

#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

#include "graticule/comm/domain.hpp"
#include "graticule/comm/exchange.hpp"

namespace graticule::comm {

/// Every message uses one tag: between two ranks messages keep their order, and the header says which one it is.
constexpr int transport_tag = 0x6772;

bool must_announce(const c10d::Backend& backend);

/// Announces those of `sends` that are of a new kind, and waits for the announcements of those of `receives` that are.
/// Throws where a peer announces another one.
void announce(const Domain& domain, c10d::Backend& backend, const std::vector<Message>& sends,
              const std::vector<Message>& receives, const std::string& what);

/// Memory to receive `message` into: its buffer, or a larger one where its sender has announced larger messages.
at::Tensor landing(const Domain& domain, const Message& message);

}  // namespace graticule::comm

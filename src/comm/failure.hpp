// The end of a domain.
#pragma once

#include <string>

#include "graticule/comm/domain.hpp"

namespace graticule::comm {

/// Tells the peers and throws `why`.
[[noreturn]] void fail(const Domain& domain, const std::string& why);

}  // namespace graticule::comm

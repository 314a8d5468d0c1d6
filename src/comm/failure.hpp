// The end of a domain.
#pragma once

#include <string>

#include "graticule/comm/domain.hpp"

namespace graticule::comm {

/// "(rank 1 of 4)", for the end of an error.
std::string where(const Domain& domain);

/// Tells the peers and throws `why`.
[[noreturn]] void fail(const Domain& domain, const std::string& why);

}  // namespace graticule::comm

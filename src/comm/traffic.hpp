// The count of what was sent.
#pragma once

#include <cstdint>

#include "graticule/comm/domain.hpp"

namespace graticule::comm {

/// Counts what this rank sends: for the domain and for the process.
void count_sent(const Domain& domain, uint64_t bytes, uint64_t messages);

}  // namespace graticule::comm

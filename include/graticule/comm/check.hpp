// Check mode: every call compares notes before it works.
#pragma once

#include <string>

#include "graticule/comm/domain.hpp"

namespace graticule::comm {

/// Whether the environment's GRATICULE_CHECK is set to something other than 0.
bool check_mode();

/// Compares `facts` over the ranks. Throws on every rank, naming the ranks that differ from rank 0 and what they have.
/// All ranks must call.
void check_equal(const Domain& domain, const std::string& what, const std::string& facts);

}  // namespace graticule::comm

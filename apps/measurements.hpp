// What a run costs, over the ranks.
#pragma once

#include "graticule/comm/domain.hpp"
#include "report.hpp"

namespace graticule::apps {

/// The most memory this process has had resident so far, in bytes.
double peak_resident_bytes();

/// Every rank's value, as least, most and sum. All ranks must call.
OverRanks over_ranks(double value, const comm::Domain& domain);

}  // namespace graticule::apps

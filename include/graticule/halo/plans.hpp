// Exchange plans, made once and found again.
#pragma once

#include <memory>
#include <vector>

#include "graticule/rows/exchange_plan.hpp"

namespace graticule::halo {

/// The plan with these facts: made at the first call, found in O(1) after that. Safe to call from any thread.
/// Throws as rows::ExchangePlan does.
std::shared_ptr<const rows::ExchangePlan> find_plan(const rows::Partition& partition, const rows::Wanted& wanted,
                                                    rows::Boundary boundary, int rank);

}  // namespace graticule::halo

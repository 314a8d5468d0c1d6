#include "graticule/halo/plans.hpp"

#include <utility>

#include "halo/plan_cache.hpp"

namespace graticule::halo {

std::shared_ptr<const rows::ExchangePlan> find_plan(const rows::Partition& partition, const rows::Wanted& wanted,
                                                    rows::Boundary boundary, int rank) {
  static PlanCache<rows::ExchangePlan> plans;
  PlanKey key{rank, static_cast<int64_t>(boundary)};
  key.reserve(2 + partition.offsets().size() + 2 * wanted.size());
  key.insert(key.end(), partition.offsets().begin(), partition.offsets().end());
  for (const rows::Interval& interval : wanted) {
    key.push_back(interval.begin);
    key.push_back(interval.end);
  }
  return plans.find(std::move(key), [&](const PlanKey&) {
    return std::make_shared<const rows::ExchangePlan>(partition, wanted, boundary, rank);
  });
}

}  // namespace graticule::halo

#include "graticule/halo/plans.hpp"

#include "halo/plan_cache.hpp"

namespace graticule::halo {

std::shared_ptr<const rows::ExchangePlan> find_plan(const rows::Partition& partition, const rows::Wanted& wanted,
                                                    rows::Boundary boundary, int rank) {
  static PlanCache<rows::ExchangePlan> plans;
  PlanKey key;
  key.add(rank).add(static_cast<int64_t>(boundary)).add(partition.offsets());
  for (const rows::Interval& interval : wanted) key.add(interval.begin).add(interval.end);
  return plans.find(key, [&] { return std::make_shared<const rows::ExchangePlan>(partition, wanted, boundary, rank); });
}

}  // namespace graticule::halo

#include "graticule/halo/plans.hpp"

#include <mutex>
#include <unordered_map>
#include <utility>

namespace graticule::halo {
namespace {

using Key = std::vector<int64_t>;

struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t hash = 1469598103934665603ULL;
    for (const int64_t word : key) {
      hash ^= static_cast<uint64_t>(word);
      hash *= 1099511628211ULL;
      hash ^= hash >> 29;
    }
    return hash;
  }
};

Key make_key(const rows::Partition& partition, const std::vector<rows::Interval>& wanted, rows::Boundary boundary,
             int rank) {
  Key key{rank, static_cast<int64_t>(boundary)};
  key.reserve(2 + partition.offsets().size() + 2 * wanted.size());
  key.insert(key.end(), partition.offsets().begin(), partition.offsets().end());
  for (const rows::Interval& interval : wanted) {
    key.push_back(interval.begin);
    key.push_back(interval.end);
  }
  return key;
}

// Shapes vary without end in some programs; a plan is cheap to make again.
constexpr size_t most_plans = 4096;

}  // namespace

std::shared_ptr<const rows::ExchangePlan> find_plan(const rows::Partition& partition,
                                                    const std::vector<rows::Interval>& wanted, rows::Boundary boundary,
                                                    int rank) {
  static std::mutex mutex;
  static std::unordered_map<Key, std::shared_ptr<const rows::ExchangePlan>, KeyHash> plans;
  Key key = make_key(partition, wanted, boundary, rank);
  {
    const std::lock_guard lock(mutex);
    if (const auto found = plans.find(key); found != plans.end()) return found->second;
  }
  auto plan = std::make_shared<const rows::ExchangePlan>(partition, wanted, boundary, rank);
  const std::lock_guard lock(mutex);
  if (plans.size() >= most_plans) plans.clear();
  return plans.try_emplace(std::move(key), std::move(plan)).first->second;
}

}  // namespace graticule::halo

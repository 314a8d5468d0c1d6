// Plans kept by what names them.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

namespace graticule::halo {

/// What names a plan, as numbers.
using PlanKey = std::vector<int64_t>;

struct PlanKeyHash {
  size_t operator()(const PlanKey& key) const {
    uint64_t hash = 1469598103934665603ULL;
    for (const int64_t word : key) {
      hash ^= static_cast<uint64_t>(word);
      hash *= 1099511628211ULL;
      hash ^= hash >> 29;
    }
    return hash;
  }
};

/// Each plan is made once and found in O(1) after that. Safe to call from any thread.
template <typename Plan>
class PlanCache {
 public:
  /// The plan of that key; make(key) gives it where there is none yet.
  template <typename Make>
  std::shared_ptr<const Plan> find(PlanKey key, const Make& make) {
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = plans_.find(key); found != plans_.end()) return found->second;
    }
    std::shared_ptr<const Plan> plan = make(std::as_const(key));
    const std::lock_guard lock(mutex_);
    if (plans_.size() >= most_plans) plans_.clear();
    return plans_.try_emplace(std::move(key), std::move(plan)).first->second;
  }

 private:
  // Shapes vary without end in some programs; a plan is cheap to make again.
  static constexpr size_t most_plans = 4096;

  std::mutex mutex_;
  std::unordered_map<PlanKey, std::shared_ptr<const Plan>, PlanKeyHash> plans_;
};

}  // namespace graticule::halo

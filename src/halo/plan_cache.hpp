// Plans kept by what names them.
#pragma once

#include <c10/util/ArrayRef.h>
#include <c10/util/SmallVector.h>

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace graticule::halo {

/// What names a plan, as numbers: lists and texts behind their lengths, so that no two keys run together. Made at each
/// call, so it takes no memory but its own where it is of usual length.
class PlanKey {
 public:
  template <std::integral Word>
  PlanKey& add(Word word) {
    words_.push_back(static_cast<int64_t>(word));
    return *this;
  }
  PlanKey& add(double value) { return add(std::bit_cast<int64_t>(value)); }
  PlanKey& add(c10::IntArrayRef words) {
    add(words.size());
    words_.append(words.begin(), words.end());
    return *this;
  }
  PlanKey& add(std::string_view text) {
    add(text.size());
    for (size_t i = 0; i < text.size(); i += sizeof(int64_t)) {
      int64_t word = 0;
      std::memcpy(&word, text.data() + i, std::min(sizeof word, text.size() - i));
      words_.push_back(word);
    }
    return *this;
  }

  [[nodiscard]] c10::IntArrayRef words() const { return words_; }

 private:
  c10::SmallVector<int64_t, 96> words_;
};

/// Each plan is made once and found in O(1) after that, without taking memory. Safe to call from any thread.
template <typename Plan>
class PlanCache {
 public:
  /// The plan of that key; make() gives it where there is none yet.
  template <typename Make>
  std::shared_ptr<const Plan> find(const PlanKey& key, const Make& make) {
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = plans_.find(key.words()); found != plans_.end()) return found->second;
    }
    std::shared_ptr<const Plan> plan = make();
    const std::lock_guard lock(mutex_);
    if (plans_.size() >= most_plans) plans_.clear();
    return plans_.try_emplace(key.words().vec(), std::move(plan)).first->second;
  }

 private:
  // Shapes vary without end in some programs; a plan is cheap to make again.
  static constexpr size_t most_plans = 4096;

  // Both look at words wherever they lie.
  struct Hash {
    using is_transparent = void;
    size_t operator()(c10::IntArrayRef words) const {
      uint64_t hash = 1469598103934665603ULL;
      for (const int64_t word : words) {
        hash ^= static_cast<uint64_t>(word);
        hash *= 1099511628211ULL;
        hash ^= hash >> 29;
      }
      return hash;
    }
  };
  struct Equal {
    using is_transparent = void;
    bool operator()(c10::IntArrayRef a, c10::IntArrayRef b) const { return a == b; }
  };

  std::mutex mutex_;
  std::unordered_map<std::vector<int64_t>, std::shared_ptr<const Plan>, Hash, Equal> plans_;
};

}  // namespace graticule::halo

// What ranks that work together must agree on, as one number that travels with their messages.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>
#include <vector>

namespace graticule::comm {

/// A running hash (FNV-1a over words). The same on every rank that adds the same facts in the same order.
class Facts {
 public:
  Facts& add(int64_t word) {
    hash_ = (hash_ ^ static_cast<uint64_t>(word)) * 1099511628211ULL;
    hash_ ^= hash_ >> 29;
    return *this;
  }
  Facts& add(double value) { return add(std::bit_cast<int64_t>(value)); }
  Facts& add(std::string_view text) {
    for (const char c : text) add(static_cast<int64_t>(c));
    return add(static_cast<int64_t>(text.size()));
  }
  Facts& add(const std::vector<int64_t>& words) {
    for (const int64_t word : words) add(word);
    return add(static_cast<int64_t>(words.size()));
  }

  [[nodiscard]] uint64_t hash() const { return hash_; }

 private:
  uint64_t hash_ = 14695981039346656037ULL;
};

}  // namespace graticule::comm

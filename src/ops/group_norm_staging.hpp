// Values of any dtype as the loops of group normalisation take them.
#pragma once

#include <ATen/OpMathType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <type_traits>
#include <vector>

#include "ops/half_loops.hpp"

namespace graticule::ops {

/// Float and double are taken in place, half and bfloat16 through a buffer of `capacity` floats, which one range at a
/// time may use, on one thread.
template <class S>
class Staging {
 public:
  using T = at::opmath_type<S>;
  static constexpr bool in_place = std::is_same_v<S, T>;
  /// Of a sheet that is summed: blocks are short where two buffers of them are to stay in the cache.
  static constexpr int64_t block_rows = in_place ? 64 : 16;

  explicit Staging(int64_t capacity) : buffer_(in_place ? 0 : capacity) {}

  /// The n values at `from`, good until the buffer is used again.
  const T* read(const S* from, int64_t n) {
    if constexpr (in_place) {
      return from;
    } else {
      if constexpr (std::is_same_v<S, at::Half>) half_loops().widen_half(from, buffer_.data(), n);
      if constexpr (std::is_same_v<S, at::BFloat16>) half_loops().widen_bfloat16(from, buffer_.data(), n);
      return buffer_.data();
    }
  }
  /// Where the loops write what finish() then puts into `to`.
  T* target(S* to) {
    if constexpr (in_place) {
      return to;
    } else {
      return buffer_.data();
    }
  }
  void finish(S* to, int64_t n) {
    if constexpr (std::is_same_v<S, at::Half>) half_loops().narrow_half(buffer_.data(), to, n);
    if constexpr (std::is_same_v<S, at::BFloat16>) half_loops().narrow_bfloat16(buffer_.data(), to, n);
  }

 private:
  std::vector<T> buffer_;
};

}  // namespace graticule::ops

// Conversions between the half types and float, compiled for several instruction sets of which one is picked at run
// time.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <vector>

namespace graticule::ops {

/// n values; ranges do not overlap. Narrowing rounds to nearest, ties to even.
struct HalfLoops {
  void (*widen_half)(const c10::Half* from, float* to, int64_t n);
  void (*narrow_half)(const float* from, c10::Half* to, int64_t n);
  void (*widen_bfloat16)(const c10::BFloat16* from, float* to, int64_t n);
  void (*narrow_bfloat16)(const float* from, c10::BFloat16* to, int64_t n);
};

/// One set for each instruction set that this machine has, the widest last.
std::vector<const HalfLoops*> runnable_half_loops();

/// The widest.
inline const HalfLoops& half_loops() {
  static const HalfLoops& loops = *runnable_half_loops().back();
  return loops;
}

}  // namespace graticule::ops

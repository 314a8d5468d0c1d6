// The instruction sets that loops are compiled for besides the build's own, and whether this machine has them.
#pragma once

/// Marks the body of a loop: it is compiled for the instruction set of the function that it is inlined into.
#define GRATICULE_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__)

/// Mark the function that names the instruction set. Call it only where has_avx2() or has_avx512() is true.
#define GRATICULE_AVX2 __attribute__((target("avx2,fma")))
#define GRATICULE_AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))

namespace graticule::ops {

/// With fused multiply-add and conversions of half.
inline bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

inline bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

}  // namespace graticule::ops

#endif

#include "ops/half_loops.hpp"

#include <bit>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "ops/instruction_sets.hpp"

namespace graticule::ops {
namespace {

namespace body {

void widen_half(const c10::Half* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = c10::detail::fp16_ieee_to_fp32_value(from[i].x);
}

void narrow_half(const float* from, c10::Half* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i].x = c10::detail::fp16_ieee_from_fp32_value(from[i]);
}

GRATICULE_INLINE void widen_bfloat16(const c10::BFloat16* from, float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = std::bit_cast<float>(static_cast<uint32_t>(from[i].x) << 16);
}

GRATICULE_INLINE void narrow_bfloat16(const float* from, c10::BFloat16* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const auto bits = std::bit_cast<uint32_t>(from[i]);
    const uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
    to[i].x = static_cast<uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? 0x7fc0U : rounded);
  }
}

}  // namespace body

#if defined(__x86_64__)
// No compiler makes this machine's own conversions of the portable formula.
__attribute__((target("avx2,f16c"))) void widen_half_f16c(const c10::Half* from, float* to, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m128i halves;
    std::memcpy(&halves, from + i, sizeof(halves));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(halves));
  }
  body::widen_half(from + i, to + i, n - i);
}

__attribute__((target("avx2,f16c"))) void narrow_half_f16c(const float* from, c10::Half* to, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    std::memcpy(static_cast<void*>(to + i), &halves, sizeof(halves));
  }
  body::narrow_half(from + i, to + i, n - i);
}
#endif

#define GRATICULE_HALF_LOOPS(Name, widen, narrow, target)                                 \
  struct Name {                                                                           \
    target static void widen_bfloat16(const c10::BFloat16* from, float* to, int64_t n) {  \
      body::widen_bfloat16(from, to, n);                                                  \
    }                                                                                     \
    target static void narrow_bfloat16(const float* from, c10::BFloat16* to, int64_t n) { \
      body::narrow_bfloat16(from, to, n);                                                 \
    }                                                                                     \
    static constexpr HalfLoops all{widen, narrow, widen_bfloat16, narrow_bfloat16};       \
  };

GRATICULE_HALF_LOOPS(Baseline, body::widen_half, body::narrow_half, )
#if defined(__x86_64__)
GRATICULE_HALF_LOOPS(Avx2, widen_half_f16c, narrow_half_f16c, GRATICULE_AVX2)
GRATICULE_HALF_LOOPS(Avx512, widen_half_f16c, narrow_half_f16c, GRATICULE_AVX512)
#endif

}  // namespace

std::vector<const HalfLoops*> runnable_half_loops() {
  std::vector<const HalfLoops*> sets{&Baseline::all};
#if defined(__x86_64__)
  if (has_avx2()) sets.push_back(&Avx2::all);
  if (has_avx512()) sets.push_back(&Avx512::all);
#endif
  return sets;
}

}  // namespace graticule::ops

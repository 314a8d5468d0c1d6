// Vectors of a stated number of bytes, for loops that are compiled for several instruction sets.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "ops/instruction_sets.hpp"

namespace graticule::ops {

template <class T, int Bytes>
struct Lanes {
  typedef T Vector __attribute__((vector_size(Bytes)));
  static constexpr int64_t width = Bytes / sizeof(T);

  static GRATICULE_INLINE void load(const T* from, Vector& to) { std::memcpy(&to, from, Bytes); }
  static GRATICULE_INLINE double total(const Vector& v) {
    double sum = 0;
    for (int64_t i = 0; i < width; ++i) sum += static_cast<double>(v[i]);
    return sum;
  }
};

/// Where a loop puts a vector: into the caches, or past them, for what is too large to stay there. Past them `to` is
/// aligned to the vector, and finish_streaming() comes before other threads read it.
struct IntoCaches {
  template <class Vector>
  static GRATICULE_INLINE void put(void* to, const Vector& v) {
    std::memcpy(to, &v, sizeof(v));
  }
};

#if defined(__x86_64__)

// Inlined by choice of the compiler: a function that must be would have to fit its caller's instruction set before that
// one is inlined itself.
struct PastCaches16 {
  template <class Vector>
  static void put(void* to, const Vector& v) {
    _mm_stream_si128(static_cast<__m128i*>(to), reinterpret_cast<const __m128i&>(v));
  }
};
struct PastCaches32 {
  template <class Vector>
  GRATICULE_AVX2 static void put(void* to, const Vector& v) {
    _mm256_stream_si256(static_cast<__m256i*>(to), reinterpret_cast<const __m256i&>(v));
  }
};
struct PastCaches64 {
  template <class Vector>
  GRATICULE_AVX512 static void put(void* to, const Vector& v) {
    _mm512_stream_si512(static_cast<__m512i*>(to), reinterpret_cast<const __m512i&>(v));
  }
};
inline void finish_streaming() { _mm_sfence(); }

#else

using PastCaches16 = IntoCaches;
inline void finish_streaming() {}

#endif

}  // namespace graticule::ops

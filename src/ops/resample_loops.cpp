#include "ops/resample_loops.hpp"

#include <algorithm>

// GCC makes a version for each instruction set and picks one when the library is loaded (the resolver of the picked one
// must not run instrumented code). Elsewhere the build's own instruction set serves.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && defined(__x86_64__) && defined(__GLIBC__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define GRATICULE_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GRATICULE_CLONES
#endif
#if defined(__GNUC__)
#define GRATICULE_INLINE inline __attribute__((always_inline))
#else
#define GRATICULE_INLINE inline
#endif

namespace graticule::ops {
namespace {

// Of the vectors that the compiler makes the instruction set's own of.
constexpr int64_t vector_bytes = 64;

// Up to four rows in one pass; `add` adds to what is there.
template <typename T>
GRATICULE_INLINE void blend_some(T* __restrict__ out, const T* const* rows, const T* weights, int64_t taps, int64_t n,
                                 bool add) {
  const T* const a = rows[0];
  const T wa = weights[0];
  if (taps == 1) {
    if (add) {
      for (int64_t i = 0; i < n; ++i) out[i] += wa * a[i];
    } else {
      for (int64_t i = 0; i < n; ++i) out[i] = wa * a[i];
    }
    return;
  }
  const T* const b = rows[1];
  const T wb = weights[1];
  if (taps == 2) {
    if (add) {
      for (int64_t i = 0; i < n; ++i) out[i] += wa * a[i] + wb * b[i];
    } else {
      for (int64_t i = 0; i < n; ++i) out[i] = wa * a[i] + wb * b[i];
    }
    return;
  }
  const T* const c = rows[2];
  const T wc = weights[2];
  if (taps == 3) {
    if (add) {
      for (int64_t i = 0; i < n; ++i) out[i] += wa * a[i] + wb * b[i] + wc * c[i];
    } else {
      for (int64_t i = 0; i < n; ++i) out[i] = wa * a[i] + wb * b[i] + wc * c[i];
    }
    return;
  }
  const T* const d = rows[3];
  const T wd = weights[3];
  if (add) {
    for (int64_t i = 0; i < n; ++i) out[i] += wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i];
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i];
  }
}

template <typename T>
GRATICULE_INLINE void blend_rows_body(T* out, const T* const* rows, const T* weights, int64_t taps, int64_t n) {
  if (taps == 0) std::fill(out, out + n, T(0));
  for (int64_t tap = 0; tap < taps; tap += 4) {
    blend_some(out, rows + tap, weights + tap, std::min<int64_t>(taps - tap, 4), n, tap > 0);
  }
}

template <typename T>
GRATICULE_INLINE void resample_line_body(T* __restrict__ out, const T* __restrict__ in,
                                         const int32_t* __restrict__ sources, const T* __restrict__ weights,
                                         int64_t taps, int64_t n) {
  int64_t tap = 0;
  if (taps % 2 == 1) {
    for (int64_t i = 0; i < n; ++i) out[i] = weights[i] * in[sources[i]];
    tap = 1;
  } else {
    const int32_t* const more = sources + n;
    const T* const more_weights = weights + n;
    for (int64_t i = 0; i < n; ++i) out[i] = weights[i] * in[sources[i]] + more_weights[i] * in[more[i]];
    tap = 2;
  }
  for (; tap < taps; tap += 2) {
    const int32_t* const a = sources + tap * n;
    const int32_t* const b = a + n;
    const T* const wa = weights + tap * n;
    const T* const wb = wa + n;
    for (int64_t i = 0; i < n; ++i) out[i] += wa[i] * in[a[i]] + wb[i] * in[b[i]];
  }
}

// `taps` weighted sources of n values at `out`, n at least one vector: the last vector overlaps the one before.
template <int taps, typename T>
GRATICULE_INLINE void sum_in_vectors(T* out, const T* const* from, const T* weights, int64_t n) {
  typedef T Vector __attribute__((vector_size(vector_bytes), aligned(alignof(T)), may_alias));
  constexpr int64_t width = vector_bytes / sizeof(T);
  for (int64_t i = 0; i < n; i += width) {
    const int64_t at = std::min(i, n - width);
    Vector sum = *reinterpret_cast<const Vector*>(from[0] + at) * weights[0];
    for (int t = 1; t < taps; ++t) sum += *reinterpret_cast<const Vector*>(from[t] + at) * weights[t];
    *reinterpret_cast<Vector*>(out + at) = sum;
  }
}

// At most four sources of one element.
template <typename T>
GRATICULE_INLINE void sum_sources(T* out, const T* const* from, const T* weights, int64_t taps, int64_t unit,
                                  bool add) {
  if (taps == 0) {
    std::fill(out, out + unit, T(0));
  } else if (add || unit * static_cast<int64_t>(sizeof(T)) < vector_bytes) {
    blend_some(out, from, weights, taps, unit, add);
  } else if (taps == 1) {
    sum_in_vectors<1>(out, from, weights, unit);
  } else if (taps == 2) {
    sum_in_vectors<2>(out, from, weights, unit);
  } else if (taps == 3) {
    sum_in_vectors<3>(out, from, weights, unit);
  } else {
    sum_in_vectors<4>(out, from, weights, unit);
  }
}

template <typename T>
GRATICULE_INLINE void resample_pixels_body(T* out, const T* const* rows, const T* row_weights, int64_t row_taps,
                                           const PixelColumns<T>& columns) {
  const int64_t unit = columns.unit;
  const bool one_row = row_taps == 1 && row_weights[0] == T(1);
  const T* from[pixel_taps] = {};
  T weights[pixel_taps] = {};
  for (int64_t i = columns.begin; i < columns.end; ++i, out += unit) {
    const int64_t first = columns.starts[i];
    const int64_t taps = columns.starts[i + 1] - first;
    const auto source = [&](int64_t row, int64_t tap) {
      return rows[row] + (columns.sources[first + tap] - columns.first) * unit;
    };
    if (one_row && taps > 0) {
      for (int64_t tap = 0; tap < taps; tap += pixel_taps) {
        const int64_t some = std::min(taps - tap, pixel_taps);
        for (int64_t t = 0; t < some; ++t) from[t] = source(0, tap + t);
        sum_sources(out, from, columns.weights + first + tap, some, unit, tap > 0);
      }
      continue;
    }
    int64_t count = 0;
    for (int64_t row = 0; row < row_taps; ++row) {
      for (int64_t tap = 0; tap < taps; ++tap, ++count) {
        from[count] = source(row, tap);
        weights[count] = row_weights[row] * columns.weights[first + tap];
      }
    }
    sum_sources(out, from, weights, count, unit, false);
  }
}

}  // namespace

#define GRATICULE_RESAMPLE_LOOPS(T)                                                                                \
  GRATICULE_CLONES void blend_rows(T* out, const T* const* rows, const T* weights, int64_t taps, int64_t n) {      \
    blend_rows_body(out, rows, weights, taps, n);                                                                  \
  }                                                                                                                \
  GRATICULE_CLONES void resample_line(T* out, const T* in, const int32_t* sources, const T* weights, int64_t taps, \
                                      int64_t n) {                                                                 \
    resample_line_body(out, in, sources, weights, taps, n);                                                        \
  }                                                                                                                \
  GRATICULE_CLONES void resample_pixels(T* out, const T* const* rows, const T* row_weights, int64_t row_taps,      \
                                        const PixelColumns<T>& columns) {                                          \
    resample_pixels_body(out, rows, row_weights, row_taps, columns);                                               \
  }
GRATICULE_RESAMPLE_LOOPS(float)
GRATICULE_RESAMPLE_LOOPS(double)
#undef GRATICULE_RESAMPLE_LOOPS

}  // namespace graticule::ops

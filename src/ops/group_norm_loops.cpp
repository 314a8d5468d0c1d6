#include "ops/group_norm_loops.hpp"

#include <algorithm>

#include "ops/vector_lanes.hpp"

namespace graticule::ops {
namespace {

// The bodies are inlined into functions that name an instruction set, and compiled for it there. Sums are kept in
// vectors of `Bytes`: without leave to reorder additions a compiler makes none of a plain loop.
namespace body {

template <class T, int Bytes>
GRATICULE_INLINE Moments line_moments(const T* x, int64_t n, T centre) {
  using L = Lanes<T, Bytes>;
  typename L::Vector sum0{}, sum1{}, sum2{}, sum3{}, square0{}, square1{}, square2{}, square3{}, d0, d1, d2, d3;
  int64_t i = 0;
  for (; i + 4 * L::width <= n; i += 4 * L::width) {
    L::load(x + i, d0);
    L::load(x + i + L::width, d1);
    L::load(x + i + 2 * L::width, d2);
    L::load(x + i + 3 * L::width, d3);
    d0 -= centre, d1 -= centre, d2 -= centre, d3 -= centre;
    sum0 += d0, sum1 += d1, sum2 += d2, sum3 += d3;
    square0 += d0 * d0, square1 += d1 * d1, square2 += d2 * d2, square3 += d3 * d3;
  }
  double sum = L::total((sum0 + sum1) + (sum2 + sum3));
  double squares = L::total((square0 + square1) + (square2 + square3));
  for (; i < n; ++i) {
    const T d = x[i] - centre;
    sum += static_cast<double>(d);
    squares += static_cast<double>(d * d);
  }
  const auto count = static_cast<double>(n);
  const double beyond = sum / count;
  const double deviations = squares - sum * beyond;
  // Rounding may leave less than nothing; not-a-number stays.
  return {count, static_cast<double>(centre) + beyond, deviations < 0 ? 0 : deviations};
}

template <class T, int Bytes>
GRATICULE_INLINE void line_products(const T* g, const T* x, int64_t n, T centre, double* sums) {
  using L = Lanes<T, Bytes>;
  typename L::Vector product0{}, product1{}, product2{}, product3{}, sum0{}, sum1{}, sum2{}, sum3{};
  typename L::Vector g0, g1, g2, g3, x0, x1, x2, x3;
  int64_t i = 0;
  for (; i + 4 * L::width <= n; i += 4 * L::width) {
    L::load(g + i, g0);
    L::load(g + i + L::width, g1);
    L::load(g + i + 2 * L::width, g2);
    L::load(g + i + 3 * L::width, g3);
    L::load(x + i, x0);
    L::load(x + i + L::width, x1);
    L::load(x + i + 2 * L::width, x2);
    L::load(x + i + 3 * L::width, x3);
    sum0 += g0, sum1 += g1, sum2 += g2, sum3 += g3;
    product0 += g0 * (x0 - centre), product1 += g1 * (x1 - centre);
    product2 += g2 * (x2 - centre), product3 += g3 * (x3 - centre);
  }
  double products = L::total((product0 + product1) + (product2 + product3));
  double sum = L::total((sum0 + sum1) + (sum2 + sum3));
  for (; i < n; ++i) {
    products += static_cast<double>(g[i] * (x[i] - centre));
    sum += static_cast<double>(g[i]);
  }
  sums[0] += products;
  sums[1] += sum;
}

template <class T>
GRATICULE_INLINE void sheet_moments(const T* __restrict x, int64_t rows, int64_t width, T* __restrict centre,
                                    T* __restrict scratch, double before, double* __restrict mean,
                                    double* __restrict deviations) {
  T* __restrict sum = scratch;
  T* __restrict squares = scratch + width;
  for (int64_t i = 0; i < 2 * width; ++i) scratch[i] = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const T* __restrict p = x + row * width;
    for (int64_t i = 0; i < width; ++i) sum[i] += p[i] - centre[i];
    for (int64_t i = 0; i < width; ++i) {
      const T d = p[i] - centre[i];
      squares[i] += d * d;
    }
  }
  const double each = 1 / static_cast<double>(rows);
  const double share = static_cast<double>(rows) / (before + static_cast<double>(rows));
  for (int64_t i = 0; i < width; ++i) {
    const auto s = static_cast<double>(sum[i]);
    const double beyond = s * each;
    const double own = static_cast<double>(squares[i]) - s * beyond;
    const double own_mean = static_cast<double>(centre[i]) + beyond;
    const double distance = own_mean - mean[i];
    deviations[i] += (own < 0 ? 0 : own) + distance * distance * before * share;
    mean[i] += distance * share;
    centre[i] = static_cast<T>(own_mean);
  }
}

template <class T>
GRATICULE_INLINE void sheet_products(const T* __restrict g, const T* __restrict x, int64_t rows, int64_t width,
                                     const T* __restrict centre, T* __restrict scratch, double* __restrict products,
                                     double* __restrict sums) {
  T* __restrict product = scratch;
  T* __restrict sum = scratch + width;
  for (int64_t i = 0; i < 2 * width; ++i) scratch[i] = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const T* __restrict p = x + row * width;
    const T* __restrict q = g + row * width;
    for (int64_t i = 0; i < width; ++i) sum[i] += q[i];
    for (int64_t i = 0; i < width; ++i) product[i] += q[i] * (p[i] - centre[i]);
  }
  for (int64_t i = 0; i < width; ++i) {
    products[i] += static_cast<double>(product[i]);
    sums[i] += static_cast<double>(sum[i]);
  }
}

// A coefficient of its own for each value of a row, or one for all.
template <class T>
struct Each {
  const T* values;
  template <class L>
  GRATICULE_INLINE void load(int64_t i, typename L::Vector& v) const {
    L::load(values + i, v);
  }
  GRATICULE_INLINE T operator[](int64_t i) const { return values[i]; }
};
template <class T>
struct Same {
  T value;
  template <class L>
  GRATICULE_INLINE void load(int64_t, typename L::Vector& v) const {
    v = typename L::Vector{} + value;
  }
  GRATICULE_INLINE T operator[](int64_t) const { return value; }
};

// Values before the first that lies on a vector's boundary.
template <class T, int Bytes>
GRATICULE_INLINE int64_t values_before_boundary(const T* y, int64_t n) {
  const auto beyond = static_cast<int64_t>(reinterpret_cast<uintptr_t>(y) % Bytes);
  return std::min(n, (Bytes - beyond) % Bytes / static_cast<int64_t>(sizeof(T)));
}

template <class T, int Bytes, class Store, class Of>
GRATICULE_INLINE void affine(const T* x, T* y, int64_t n, Of centre, Of scale, Of shift) {
  using L = Lanes<T, Bytes>;
  const auto single = [&](int64_t i)
                          __attribute__((always_inline)) { y[i] = (x[i] - centre[i]) * scale[i] + shift[i]; };
  typename L::Vector v, c, s, t;
  int64_t i = 0;
  for (const int64_t first = values_before_boundary<T, Bytes>(y, n); i < first; ++i) single(i);
  for (; i + L::width <= n; i += L::width) {
    L::load(x + i, v);
    centre.template load<L>(i, c);
    scale.template load<L>(i, s);
    shift.template load<L>(i, t);
    v = (v - c) * s + t;
    Store::put(y + i, v);
  }
  for (; i < n; ++i) single(i);
}

template <class T, int Bytes, class Store, class Of>
GRATICULE_INLINE void gradient(const T* g, const T* x, T* y, int64_t n, Of factor, Of centre, Of slope, Of offset) {
  using L = Lanes<T, Bytes>;
  const auto single = [&](int64_t i) __attribute__((always_inline)) {
    y[i] = g[i] * factor[i] + ((x[i] - centre[i]) * slope[i] + offset[i]);
  };
  typename L::Vector u, v, f, c, s, o;
  int64_t i = 0;
  for (const int64_t first = values_before_boundary<T, Bytes>(y, n); i < first; ++i) single(i);
  for (; i + L::width <= n; i += L::width) {
    L::load(g + i, u);
    L::load(x + i, v);
    factor.template load<L>(i, f);
    centre.template load<L>(i, c);
    slope.template load<L>(i, s);
    offset.template load<L>(i, o);
    v = u * f + ((v - c) * s + o);
    Store::put(y + i, v);
  }
  for (; i < n; ++i) single(i);
}

}  // namespace body

#define GRATICULE_LOOPS(Name, bytes, target)                                                                           \
  template <class T>                                                                                                   \
  struct Name {                                                                                                        \
    using E = body::Each<T>;                                                                                           \
    using S = body::Same<T>;                                                                                           \
    using Past = PastCaches##bytes;                                                                                    \
    target static Moments line_moments(const T* x, int64_t n, T centre) {                                              \
      return body::line_moments<T, bytes>(x, n, centre);                                                               \
    }                                                                                                                  \
    target static void line_products(const T* g, const T* x, int64_t n, T centre, double* sums) {                      \
      body::line_products<T, bytes>(g, x, n, centre, sums);                                                            \
    }                                                                                                                  \
    target static void line_affine(const T* x, T* y, int64_t n, T centre, T scale, T shift, bool past_caches) {        \
      if (past_caches) {                                                                                               \
        body::affine<T, bytes, Past>(x, y, n, S{centre}, S{scale}, S{shift});                                          \
      } else {                                                                                                         \
        body::affine<T, bytes, IntoCaches>(x, y, n, S{centre}, S{scale}, S{shift});                                    \
      }                                                                                                                \
    }                                                                                                                  \
    target static void line_gradient(const T* g, const T* x, T* y, int64_t n, T factor, T centre, T slope, T offset,   \
                                     bool past_caches) {                                                               \
      if (past_caches) {                                                                                               \
        body::gradient<T, bytes, Past>(g, x, y, n, S{factor}, S{centre}, S{slope}, S{offset});                         \
      } else {                                                                                                         \
        body::gradient<T, bytes, IntoCaches>(g, x, y, n, S{factor}, S{centre}, S{slope}, S{offset});                   \
      }                                                                                                                \
    }                                                                                                                  \
    target static void sheet_moments(const T* x, int64_t rows, int64_t width, T* centre, T* scratch, double before,    \
                                     double* mean, double* deviations) {                                               \
      body::sheet_moments(x, rows, width, centre, scratch, before, mean, deviations);                                  \
    }                                                                                                                  \
    target static void sheet_products(const T* g, const T* x, int64_t rows, int64_t width, const T* centre,            \
                                      T* scratch, double* products, double* sums) {                                    \
      body::sheet_products(g, x, rows, width, centre, scratch, products, sums);                                        \
    }                                                                                                                  \
    target static void sheet_affine(const T* x, T* y, int64_t rows, int64_t width, const T* centre, const T* scale,    \
                                    const T* shift, bool past_caches) {                                                \
      for (int64_t i = 0; i < rows * width; i += width) {                                                              \
        if (past_caches) {                                                                                             \
          body::affine<T, bytes, Past>(x + i, y + i, width, E{centre}, E{scale}, E{shift});                            \
        } else {                                                                                                       \
          body::affine<T, bytes, IntoCaches>(x + i, y + i, width, E{centre}, E{scale}, E{shift});                      \
        }                                                                                                              \
      }                                                                                                                \
    }                                                                                                                  \
    target static void sheet_gradient(const T* g, const T* x, T* y, int64_t rows, int64_t width, const T* factor,      \
                                      const T* centre, const T* slope, const T* offset, bool past_caches) {            \
      for (int64_t i = 0; i < rows * width; i += width) {                                                              \
        if (past_caches) {                                                                                             \
          body::gradient<T, bytes, Past>(g + i, x + i, y + i, width, E{factor}, E{centre}, E{slope}, E{offset});       \
        } else {                                                                                                       \
          body::gradient<T, bytes, IntoCaches>(g + i, x + i, y + i, width, E{factor}, E{centre}, E{slope}, E{offset}); \
        }                                                                                                              \
      }                                                                                                                \
    }                                                                                                                  \
    static constexpr GroupNormLoops<T> all{line_moments,  line_products,  line_affine,  line_gradient,                 \
                                           sheet_moments, sheet_products, sheet_affine, sheet_gradient};               \
  };

GRATICULE_LOOPS(Baseline, 16, )
#if defined(__x86_64__)
GRATICULE_LOOPS(Avx2, 32, GRATICULE_AVX2)
GRATICULE_LOOPS(Avx512, 64, GRATICULE_AVX512)
#endif

}  // namespace

template <class T>
std::vector<const GroupNormLoops<T>*> runnable_group_norm_loops() {
  std::vector<const GroupNormLoops<T>*> sets{&Baseline<T>::all};
#if defined(__x86_64__)
  if (has_avx2()) sets.push_back(&Avx2<T>::all);
  if (has_avx512()) sets.push_back(&Avx512<T>::all);
#endif
  return sets;
}

template std::vector<const GroupNormLoops<float>*> runnable_group_norm_loops<float>();
template std::vector<const GroupNormLoops<double>*> runnable_group_norm_loops<double>();

}  // namespace graticule::ops

// Interpolation along the cut dimension: which rows an output row is made of, with which weights.
//
// Coordinates and weights follow ATen's CPU and CUDA kernels (aten/src/ATen/native/UpSample.h and
// cpu/UpSampleKernel.cpp of PyTorch 2.13), in the type Real that ATen computes them in: float for tensors of float32
// and narrower, double for float64.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <vector>

#include "graticule/rows/interval.hpp"

namespace graticule::rows {

enum class ResamplingKind { linear, cubic, linear_antialias, cubic_antialias, area };

/// An output row is the sum over j of weights[j] * input row rows[j]. Rows lie in the grid and may repeat.
template <typename Real>
struct Taps {
  std::vector<int64_t> rows;
  std::vector<Real> weights;

  /// The smallest interval that holds every row.
  [[nodiscard]] Interval support() const {
    if (rows.empty()) return {0, 0};
    const auto [low, high] = std::minmax_element(rows.begin(), rows.end());
    return {*low, *high + 1};
  }
};

/// The numbers an interpolation is made of. `scale` is the scale factor where the caller gave one that is to be used
/// as it is (output size over input size otherwise). `fused` tells whether the kernels that are followed multiply and
/// subtract with one rounding, as compilers make of the formula where the instruction set can, and `fused_weights` the
/// same of the cubic kernel: by their roundings a weight is zero or is not. `narrow_floor` tells
/// whether they round a coordinate to float before they round it down, and `unbound_fraction` whether what is left
/// may then be less than zero.
struct ResamplingGrid {
  int64_t input = 1;
  int64_t output = 1;
  bool align_corners = false;
  std::optional<double> scale;
  bool fused = false;
  bool fused_weights = false;
  bool narrow_floor = false;
  bool unbound_fraction = false;
};

/// Input rows per output row.
template <typename Real>
[[nodiscard]] Real row_step(const ResamplingGrid& g) {
  if (g.align_corners) return g.output > 1 ? static_cast<Real>(g.input - 1) / static_cast<Real>(g.output - 1) : Real(0);
  if (g.scale.has_value() && *g.scale > 0) return static_cast<Real>(1.0 / *g.scale);
  return static_cast<Real>(g.input) / static_cast<Real>(g.output);
}

namespace detail {

template <typename Real>
Real source_coordinate(const ResamplingGrid& g, int64_t row) {
  const Real step = row_step<Real>(g);
  if (g.align_corners) return step * static_cast<Real>(row);
  const Real middle = static_cast<Real>(row) + Real(0.5);
  if (g.fused) return std::fma(step, middle, -Real(0.5));
  // A product that is stored is rounded: no compiler may fuse it with the subtraction.
  const volatile Real product = step * middle;
  return product - Real(0.5);
}

template <typename Real>
int64_t row_below(const ResamplingGrid& g, Real at) {
  const Real rounded = g.narrow_floor ? static_cast<Real>(static_cast<float>(at)) : at;
  return std::min(static_cast<int64_t>(std::floor(rounded)), g.input - 1);
}

template <typename Real>
Real fraction_above(const ResamplingGrid& g, Real at, int64_t row) {
  const Real fraction = at - static_cast<Real>(row);
  return g.unbound_fraction ? fraction : std::clamp(fraction, Real(0), Real(1));
}

// Taps of weight zero are taps: zero times infinity is not zero.
template <typename Real>
Taps<Real> linear_taps(const ResamplingGrid& g, int64_t row) {
  if (g.input == g.output) return {{row, row}, {Real(1), Real(0)}};
  const Real at = std::max(source_coordinate<Real>(g, row), Real(0));
  const int64_t first = row_below(g, at);
  const Real fraction = fraction_above(g, at, first);
  return {{first, std::min(first + 1, g.input - 1)}, {Real(1) - fraction, fraction}};
}

template <typename Real>
Real multiply_add(Real x, Real y, Real z, bool fused) {
  if (fused) return std::fma(x, y, z);
  const volatile Real product = x * y;
  return product + z;
}

// Keys' cubic convolution kernel (1981) at distance x up to 1, and from there up to 2. Which weights are zero depends
// on the order in which they are rounded: it is ATen's.
template <typename Real>
Real cubic_near(Real x, Real a, bool fused) {
  const Real slope = multiply_add(a + Real(2), x, -(a + Real(3)), fused);
  return multiply_add(slope * x, x, Real(1), fused);
}

template <typename Real>
Real cubic_far(Real x, Real a, bool fused) {
  const Real square = multiply_add(multiply_add(a, x, Real(-5) * a, fused), x, Real(8) * a, fused);
  return multiply_add(square, x, Real(-4) * a, fused);
}

template <typename Real>
Real cubic_kernel(Real x, Real a, bool fused) {
  x = std::abs(x);
  if (x < Real(1)) return cubic_near(x, a, fused);
  return x < Real(2) ? cubic_far(x, a, fused) : Real(0);
}

template <typename Real>
Taps<Real> cubic_taps(const ResamplingGrid& g, int64_t row) {
  const Real at = source_coordinate<Real>(g, row);
  const int64_t first = row_below(g, at);
  const Real before = fraction_above(g, at, first);
  const Real after = Real(1) - before;
  const Real a(-0.75);
  const bool fused = g.fused_weights;
  Taps<Real> taps{{},
                  {cubic_far(before + Real(1), a, fused), cubic_near(before, a, fused), cubic_near(after, a, fused),
                   cubic_far(after + Real(1), a, fused)}};
  for (int64_t j = -1; j <= 2; ++j) taps.rows.push_back(std::clamp<int64_t>(first + j, 0, g.input - 1));
  return taps;
}

template <typename Real>
Taps<Real> antialias_taps(const ResamplingGrid& g, int64_t row, bool cubic) {
  const Real step = row_step<Real>(g);
  const Real half = cubic ? Real(2) : Real(1);
  const Real support = step >= Real(1) ? half * step : half;
  const Real inverse = step >= Real(1) ? Real(1) / step : Real(1);
  const Real middle = static_cast<Real>(row) + Real(0.5);
  const Real center = step * middle;
  const Real low = g.fused ? std::fma(step, middle, -support) : center - support;
  const Real high = g.fused ? std::fma(step, middle, support) : center + support;
  const int64_t begin = std::max<int64_t>(static_cast<int64_t>(low + 0.5), 0);
  const int64_t end = std::min<int64_t>(static_cast<int64_t>(high + 0.5), g.input);
  const int64_t most = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  const int64_t count = std::clamp<int64_t>(end - begin, 0, most);
  Taps<Real> taps;
  Real total = 0;
  for (int64_t j = 0; j < count; ++j) {
    const Real from_center = g.fused ? static_cast<Real>(j) + std::fma(-step, middle, static_cast<Real>(begin))
                                     : static_cast<Real>(j + begin) - center;
    const Real x = static_cast<Real>((from_center + 0.5) * inverse);
    const Real weight = cubic ? cubic_kernel(x, Real(-0.5), g.fused_weights) : std::max(Real(1) - std::abs(x), Real(0));
    taps.rows.push_back(begin + j);
    taps.weights.push_back(weight);
    total += weight;
  }
  if (total != Real(0)) {
    for (Real& weight : taps.weights) weight /= total;
  }
  return taps;
}

template <typename Real>
Taps<Real> area_taps(const ResamplingGrid& g, int64_t row) {
  const int64_t begin = floor_div(row * g.input, g.output);
  const int64_t end = ceil_div((row + 1) * g.input, g.output);
  Taps<Real> taps;
  for (int64_t j = begin; j < end; ++j) {
    taps.rows.push_back(j);
    taps.weights.push_back(Real(1) / static_cast<Real>(end - begin));
  }
  return taps;
}

}  // namespace detail

/// What output row `row` of `g` is made of.
template <typename Real>
[[nodiscard]] Taps<Real> resampling_taps(ResamplingKind kind, const ResamplingGrid& g, int64_t row) {
  switch (kind) {
    case ResamplingKind::linear:
      return detail::linear_taps<Real>(g, row);
    case ResamplingKind::cubic:
      return detail::cubic_taps<Real>(g, row);
    case ResamplingKind::linear_antialias:
      return detail::antialias_taps<Real>(g, row, false);
    case ResamplingKind::cubic_antialias:
      return detail::antialias_taps<Real>(g, row, true);
    case ResamplingKind::area:
      return detail::area_taps<Real>(g, row);
  }
  throw std::invalid_argument("unknown resampling");
}

}  // namespace graticule::rows

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

enum class Resampling { linear, cubic, linear_antialias, cubic_antialias, area };

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
/// subtract with one rounding, as compilers make of the formula where the instruction set can.
struct ResamplingGrid {
  int64_t input = 1;
  int64_t output = 1;
  bool align_corners = false;
  std::optional<double> scale;
  bool fused = false;
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
Taps<Real> linear_taps(const ResamplingGrid& g, int64_t row) {
  if (g.input == g.output) return {{row}, {Real(1)}};
  const Real at = std::max(source_coordinate<Real>(g, row), Real(0));
  const int64_t first = std::min(static_cast<int64_t>(at), g.input - 1);
  const Real fraction = std::clamp(at - static_cast<Real>(first), Real(0), Real(1));
  return {{first, std::min(first + 1, g.input - 1)}, {Real(1) - fraction, fraction}};
}

// Keys' cubic convolution kernel (1981) at distance x.
template <typename Real>
Real cubic_kernel(Real x, Real a) {
  x = std::abs(x);
  if (x < Real(1)) return ((a + Real(2)) * x - (a + Real(3))) * x * x + Real(1);
  if (x < Real(2)) return ((a * x - Real(5) * a) * x + Real(8) * a) * x - Real(4) * a;
  return Real(0);
}

template <typename Real>
Taps<Real> cubic_taps(const ResamplingGrid& g, int64_t row) {
  const Real at = source_coordinate<Real>(g, row);
  const int64_t first = std::min(static_cast<int64_t>(std::floor(at)), g.input - 1);
  const Real fraction = std::clamp(at - static_cast<Real>(first), Real(0), Real(1));
  Taps<Real> taps;
  for (int64_t j = -1; j <= 2; ++j) {
    taps.rows.push_back(std::clamp<int64_t>(first + j, 0, g.input - 1));
    taps.weights.push_back(cubic_kernel(fraction - static_cast<Real>(j), Real(-0.75)));
  }
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
  const int64_t begin = std::max<int64_t>(static_cast<int64_t>(low + Real(0.5)), 0);
  const int64_t end = std::min<int64_t>(static_cast<int64_t>(high + Real(0.5)), g.input);
  const int64_t most = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  const int64_t count = std::clamp<int64_t>(end - begin, 0, most);
  Taps<Real> taps;
  Real total = 0;
  for (int64_t j = 0; j < count; ++j) {
    const Real from_center = g.fused ? static_cast<Real>(j) + std::fma(-step, middle, static_cast<Real>(begin))
                                     : static_cast<Real>(j + begin) - center;
    const Real x = (from_center + Real(0.5)) * inverse;
    const Real weight = cubic ? cubic_kernel(x, Real(-0.5)) : std::max(Real(1) - std::abs(x), Real(0));
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
[[nodiscard]] Taps<Real> resampling_taps(Resampling kind, const ResamplingGrid& g, int64_t row) {
  switch (kind) {
    case Resampling::linear:
      return detail::linear_taps<Real>(g, row);
    case Resampling::cubic:
      return detail::cubic_taps<Real>(g, row);
    case Resampling::linear_antialias:
      return detail::antialias_taps<Real>(g, row, false);
    case Resampling::cubic_antialias:
      return detail::antialias_taps<Real>(g, row, true);
    case Resampling::area:
      return detail::area_taps<Real>(g, row);
  }
  throw std::invalid_argument("unknown resampling");
}

}  // namespace graticule::rows

// The inner loops of interpolation on the CPU, compiled for several instruction sets of which one is picked at run
// time. T is float or double; ranges do not overlap.
#pragma once

#include <cstdint>

namespace graticule::ops {

/// out[i] = sum over t of weights[t] * rows[t][i], i in [0, n); zeros for no rows.
void blend_rows(float* out, const float* const* rows, const float* weights, int64_t taps, int64_t n);
void blend_rows(double* out, const double* const* rows, const double* weights, int64_t taps, int64_t n);

/// out[i] = sum over t of weights[t * n + i] * in[sources[t * n + i]], i in [0, n), taps at least 1.
void resample_line(float* out, const float* in, const int32_t* sources, const float* weights, int64_t taps, int64_t n);
void resample_line(double* out, const double* in, const int32_t* sources, const double* weights, int64_t taps,
                   int64_t n);

/// Elements [begin, end) of the columns of a plane, a sparse matrix by rows of elements of `unit` values; its sources
/// are counted from `first`.
template <typename T>
struct PixelColumns {
  const int64_t* starts;
  const int64_t* sources;
  const T* weights;
  int64_t first, begin, end, unit;
};

/// The most sources that resample_pixels takes at once.
constexpr int64_t pixel_taps = 4;

/// out[(i - begin) * unit + c] = sum over t and j of row_weights[t] * weights[j] * rows[t][(sources[j] - first) * unit
/// + c]. Either one row of weight 1 or at most pixel_taps sources an element.
void resample_pixels(float* out, const float* const* rows, const float* row_weights, int64_t row_taps,
                     const PixelColumns<float>& columns);
void resample_pixels(double* out, const double* const* rows, const double* row_weights, int64_t row_taps,
                     const PixelColumns<double>& columns);

}  // namespace graticule::ops

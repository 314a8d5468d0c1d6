// Inner loops of group normalisation on the CPU, compiled for several instruction sets of which one is picked at run
// time.
#pragma once

#include <cstdint>
#include <vector>

namespace graticule::ops {

/// Of some values: how many, their mean, and the sum of their squared deviations from it.
struct Moments {
  double count = 0;
  double mean = 0;
  double deviations = 0;

  /// Takes in the moments of more values (Chan, Golub and LeVeque 1979).
  void add(const Moments& more) {
    if (more.count == 0) return;
    const double share = more.count / (count + more.count);
    const double distance = more.mean - mean;
    deviations += more.deviations + distance * distance * count * share;
    mean += distance * share;
    count += more.count;
  }
};

/// T is float or double. Sums run in T over at most `line_block` terms a lane and go on in double. Ranges do not
/// overlap.
///
/// What is written `past_caches` may be read by other threads after finish_streaming() (ops/vector_lanes.hpp).
///
/// A "line" is n values that share their coefficients. A "sheet" is rows x width values, one coefficient a column.
///
/// Moments are those of the values less a centre, moved back. They lose no digits where the centre is the mean of the
/// block before: n times the square of the distances between the means of neighbouring blocks, added up, is at most
/// four times the squared deviations from the mean of all blocks.
template <class T>
struct GroupNormLoops {
  Moments (*line_moments)(const T* x, int64_t n, T centre);
  /// Adds sum(g * (x - centre)) to sums[0], sum(g) to sums[1].
  void (*line_products)(const T* g, const T* x, int64_t n, T centre, double* sums);
  /// y = (x - centre) * scale + shift.
  void (*line_affine)(const T* x, T* y, int64_t n, T centre, T scale, T shift, bool past_caches);
  /// y = g * factor + (x - centre) * slope + offset.
  void (*line_gradient)(const T* g, const T* x, T* y, int64_t n, T factor, T centre, T slope, T offset,
                        bool past_caches);

  /// Takes the sheet's columns into `mean` and `deviations`, which hold those of `before` rows, and leaves the columns'
  /// means in `centre`. scratch: 2 * width values.
  void (*sheet_moments)(const T* x, int64_t rows, int64_t width, T* centre, T* scratch, double before, double* mean,
                        double* deviations);
  /// Adds the columns' sum(g * (x - centre)) to `products`, their sum(g) to `sums`. scratch: 2 * width values.
  void (*sheet_products)(const T* g, const T* x, int64_t rows, int64_t width, const T* centre, T* scratch,
                         double* products, double* sums);
  void (*sheet_affine)(const T* x, T* y, int64_t rows, int64_t width, const T* centre, const T* scale, const T* shift,
                       bool past_caches);
  void (*sheet_gradient)(const T* g, const T* x, T* y, int64_t rows, int64_t width, const T* factor, const T* centre,
                         const T* slope, const T* offset, bool past_caches);
};

/// One set for each instruction set that this machine has, the widest last.
template <class T>
std::vector<const GroupNormLoops<T>*> runnable_group_norm_loops();

/// The widest.
template <class T>
const GroupNormLoops<T>& group_norm_loops() {
  static const GroupNormLoops<T>& loops = *runnable_group_norm_loops<T>().back();
  return loops;
}

}  // namespace graticule::ops

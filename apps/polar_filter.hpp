// The polar Fourier filter: what lets the time step be set by the spacing at 60 degrees.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace graticule::apps {

/// Damps zonal wavenumber m at latitude phi by min(1, cos(phi) / (cos(60 deg) sin(pi m / columns))), as Arakawa and
/// Lamb (1977, Methods in Computational Physics 17, section VII) do: a difference along a row is then no larger than
/// one at 60 degrees. Wavenumber 0 stays as it is, so that zonal means, and with them the mass, are untouched.
class PolarFilter {
 public:
  /// `latitudes`: one list a field, radians, one value a local row, every list as long. `power`: how often the filter
  /// is applied at once.
  PolarFilter(const std::vector<std::vector<double>>& latitudes, int64_t columns, int power);

  /// In place on (fields, runs, rows, columns). Touches only the rows poleward of 60 degrees.
  void apply_(at::Tensor& fields) const;

 private:
  struct Band {
    int64_t first_row;
    int64_t rows;
    at::Tensor factors;  // (fields, 1, rows, columns / 2 + 1)
  };
  int64_t columns_;
  std::vector<Band> bands_;
};

}  // namespace graticule::apps

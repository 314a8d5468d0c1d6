// The rotating shallow-water equations on the sphere, cut by rows.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "graticule/comm/domain.hpp"
#include "polar_filter.hpp"
#include "sphere_grid.hpp"

namespace graticule::apps {

struct ShallowWaterOptions {
  SphereGrid grid;               ///< at least 4 rows and 4 columns, an even number of columns
  std::vector<int64_t> offsets;  ///< the cut of the rows; empty: the balanced one
  double axis_angle = 0;         ///< radians between the axis of rotation and the grid's (alpha of Williamson et al.)
  double diffusion_time = 0;     ///< s: e-folding time of the shortest meridional wave; 0: no diffusion
  double courant = 0.7;          ///< the step, as a part of the longest stable one
};

/// Several runs at once. Fields are float64 of shape (3, runs, local rows, columns): the height h [m] at cell centres,
/// the eastward wind u [m/s] at the cells' east faces and the northward wind v [m/s] at their north edges (Arakawa's C
/// grid). v on the north pole's edge is 0 and means nothing.
///
/// Space: vector-invariant momentum with the potential-enstrophy form of the rotational term (Sadourny 1975, J. Atmos.
/// Sci. 32), mass in flux form, centred differences of second order; the vorticity at a pole is the circulation around
/// its cap. Tendencies pass the polar filter. Time: the classical Runge-Kutta scheme of order 4. After each step u and
/// v are diffused by -nu (grad div - curl curl)^2.
///
/// Members that take fields communicate where a domain is given: all ranks must call. Each exchange of rows is
/// graticule::ops::gather_rows with the boundary "pole", so that no rank is special. Cuts agree to
/// rounding.
class ShallowWater {
 public:
  /// Without a domain the grid is whole. Throws where grid and offsets do not fit.
  ShallowWater(ShallowWaterOptions options, std::optional<comm::Domain> domain);

  [[nodiscard]] const std::vector<int64_t>& offsets() const { return options_.offsets; }
  [[nodiscard]] int64_t first_row() const { return first_row_; }
  [[nodiscard]] int64_t local_rows() const { return local_rows_; }

  /// The fields' rate of change by the equations, without diffusion.
  [[nodiscard]] at::Tensor tendency(const at::Tensor& fields) const;

  /// A step in seconds that is stable for these fields (CFL). The same on every rank. Throws where a field is not
  /// finite.
  [[nodiscard]] double stable_step(const at::Tensor& fields) const;

  /// The fields `seconds` later, in equal steps no longer than the stable one.
  [[nodiscard]] at::Tensor advance(const at::Tensor& fields, double seconds) const;

  /// h, u and v at the cell centres, of the fields' shape.
  [[nodiscard]] at::Tensor centred(const at::Tensor& fields) const;

  /// The volume of each run's fluid over that of a layer 1 m thick: the mean height [m]. Added row by row, north to
  /// south.
  [[nodiscard]] at::Tensor mean_height(const at::Tensor& fields) const;

 private:
  static constexpr int64_t halo = 2;

  // Metric terms of the rows and edges [first, first + count), shape (count, 1).
  struct Metric {
    at::Tensor row_cosine, inverse_row_cosine, edge_cosine, inverse_edge_cosine;
  };
  [[nodiscard]] Metric make_metric(int64_t first, int64_t count) const;
  [[nodiscard]] at::Tensor make_coriolis() const;

  [[nodiscard]] at::Tensor extended(const at::Tensor& fields) const;
  [[nodiscard]] at::Tensor extended_alone(const at::Tensor& fields) const;
  void set_pole_wind(at::Tensor& v, int64_t first_edge) const;
  [[nodiscard]] at::Tensor vorticity(const at::Tensor& u, const at::Tensor& v, const Metric& metric,
                                     int64_t first) const;
  [[nodiscard]] at::Tensor divergence(const at::Tensor& u, const at::Tensor& v, const Metric& metric) const;
  [[nodiscard]] std::vector<at::Tensor> laplacian(const at::Tensor& u, const at::Tensor& v, int64_t first) const;
  [[nodiscard]] at::Tensor runge_kutta(const at::Tensor& fields, double step) const;
  void diffuse_(at::Tensor& fields, double step) const;
  void check_shape(const at::Tensor& fields) const;

  ShallowWaterOptions options_;
  std::optional<comm::Domain> domain_;
  int64_t first_row_ = 0;
  int64_t local_rows_ = 0;
  Metric extended_metric_;  // rows [first_row - halo, first_row + local_rows + halo)
  at::Tensor coriolis_;     // corners of the edges [first_row, first_row + local_rows]
  at::Tensor inside_;       // 1 at edges within the grid, 0 at poles, shape (local rows, 1)
  std::optional<PolarFilter> filter_, diffusion_filter_;
};

}  // namespace graticule::apps

// Latitudes and longitudes of a grid whose rows lie half a row off the poles, north to south.
#pragma once

#include <cstdint>
#include <numbers>

namespace graticule::apps {

inline constexpr double earth_radius = 6.37122e6;   ///< m; Williamson et al. 1992
inline constexpr double earth_rotation = 7.292e-5;  ///< 1/s; Williamson et al. 1992
inline constexpr double earth_gravity = 9.80616;    ///< m/s2; Williamson et al. 1992
inline constexpr double seconds_a_day = 86400;

/// Angles in radians. Row j lies between edge j to its north and edge j + 1 to its south; edges 0 and `rows` are the
/// poles. Column i lies between face i - 1 to its west and face i to its east.
struct SphereGrid {
  int64_t rows = 0;
  int64_t columns = 0;

  [[nodiscard]] double latitude_step() const { return std::numbers::pi / static_cast<double>(rows); }
  [[nodiscard]] double longitude_step() const { return 2 * std::numbers::pi / static_cast<double>(columns); }
  [[nodiscard]] double row_latitude(int64_t row) const {
    return (static_cast<double>(rows - 1 - 2 * row) / 2) * latitude_step();
  }
  [[nodiscard]] double edge_latitude(int64_t edge) const {
    return (static_cast<double>(rows - 2 * edge) / 2) * latitude_step();
  }
  [[nodiscard]] double column_longitude(int64_t column) const { return static_cast<double>(column) * longitude_step(); }
  [[nodiscard]] double face_longitude(int64_t face) const {
    return (static_cast<double>(face) + 0.5) * longitude_step();
  }
};

}  // namespace graticule::apps

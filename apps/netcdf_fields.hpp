// Fields on one latitude-longitude grid, whatever a NetCDF file calls its dimensions.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "netcdf_file.hpp"

namespace graticule::apps {

/// The variables of `names` in `file`, each of dimensions latitude and longitude and, where it has them, time and
/// level, in any order. Latitude and longitude are told by the units of their coordinates (degrees_north, degrees_east)
/// or by name, time by its units ("... since ...") or by name; what else there is, is the level.
class NetCdfFields {
 public:
  /// Throws where a variable is missing or its dimensions fit neither this rule nor the other variables'. `file` must
  /// outlive this.
  NetCdfFields(const NetCdfFile& file, const std::vector<std::string>& names);

  [[nodiscard]] const std::vector<double>& latitudes() const { return latitudes_; }  ///< degrees, north to south
  [[nodiscard]] int64_t columns() const { return columns_; }
  [[nodiscard]] int64_t times() const { return times_; }    ///< 1 where no variable has a time
  [[nodiscard]] int64_t levels() const { return levels_; }  ///< 1 where no variable has a level

  /// Values (levels, end - begin, columns), rows counted from the north, read from the file alone. A variable without
  /// time is the same at all times, one without level on all levels.
  [[nodiscard]] at::Tensor read(const std::string& name, int64_t time, int64_t begin, int64_t end) const;

 private:
  enum class Role { time, level, latitude, longitude };

  [[nodiscard]] std::vector<Role> roles_of(const NetCdfVariable& variable) const;
  [[nodiscard]] Role role_of(const std::string& dimension) const;
  void take_size(const NetCdfVariable& variable, Role role, int64_t size);
  void read_latitudes(const std::string& dimension);

  const NetCdfFile& file_;
  std::string latitude_dimension_;
  std::vector<double> latitudes_;
  bool from_south_ = false;
  int64_t rows_ = 0, columns_ = 0, times_ = 0, levels_ = 0;
};

}  // namespace graticule::apps

// A NetCDF file, open for reading.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace graticule::apps {

struct NetCdfVariable {
  std::string name;
  int id = 0;
  bool floating = false;  ///< float or double
  std::vector<std::string> dimensions;
  std::vector<int64_t> sizes;
};

/// Errors of NetCDF-C become c10::Error with the file's name. NetCDF-C is not thread-safe: hold one lock for all files.
/// Defined only where the program is built with NetCDF-C (GRATICULE_HAVE_NETCDF).
class NetCdfFile {
 public:
  explicit NetCdfFile(std::string path);
  NetCdfFile(const NetCdfFile&) = delete;
  NetCdfFile& operator=(const NetCdfFile&) = delete;
  ~NetCdfFile();

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const std::vector<NetCdfVariable>& variables() const { return variables_; }
  /// nullptr where the file has none of that name.
  [[nodiscard]] const NetCdfVariable* find(const std::string& name) const;
  /// The variable of that name. Throws, with the names that there are.
  [[nodiscard]] const NetCdfVariable& variable(const std::string& name) const;

  /// A text attribute; empty where there is none.
  [[nodiscard]] std::string text(const NetCdfVariable& variable, const std::string& attribute) const;
  [[nodiscard]] std::optional<double> number(const NetCdfVariable& variable, const std::string& attribute) const;

  /// The stored values as float64, unpacked by scale_factor and add_offset. Throws where one is missing (_FillValue,
  /// missing_value, not a number) or the variable holds no numbers.
  [[nodiscard]] at::Tensor read(const NetCdfVariable& variable, const std::vector<int64_t>& start,
                                const std::vector<int64_t>& count) const;

 private:
  void read_variables();
  void check(int status, const std::string& what) const;
  void check_complete(const NetCdfVariable& variable, const at::Tensor& stored) const;

  std::string path_;
  int id_ = -1;
  std::vector<NetCdfVariable> variables_;
};

}  // namespace graticule::apps

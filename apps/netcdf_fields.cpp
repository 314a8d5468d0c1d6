#include "netcdf_fields.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>
#include <initializer_list>

namespace graticule::apps {
namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

bool is_one_of(const std::string& text, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(), [&](const char* name) { return text == name; });
}

std::string dimensions_of(const NetCdfVariable& variable) {
  std::string result;
  for (size_t i = 0; i < variable.sizes.size(); ++i) {
    result += (i == 0 ? "" : ", ") + variable.dimensions[i] + " = " + std::to_string(variable.sizes[i]);
  }
  return variable.name + "(" + result + ")";
}

}  // namespace

NetCdfFields::NetCdfFields(const NetCdfFile& file, const std::vector<std::string>& names) : file_(file) {
  for (const std::string& name : names) {
    const NetCdfVariable& variable = file_.variable(name);
    const std::vector<Role> roles = roles_of(variable);
    for (size_t i = 0; i < roles.size(); ++i) {
      take_size(variable, roles[i], variable.sizes[i]);
      if (roles[i] == Role::latitude) latitude_dimension_ = variable.dimensions[i];
    }
  }
  times_ = std::max<int64_t>(times_, 1);
  levels_ = std::max<int64_t>(levels_, 1);
  read_latitudes(latitude_dimension_);
  TORCH_CHECK_VALUE(columns_ % 2 == 0, file_.path(), ": ", columns_,
                    " longitudes: across a pole lies the column half of them away, so their number must be even");
}

NetCdfFields::Role NetCdfFields::role_of(const std::string& dimension) const {
  const NetCdfVariable* coordinate = file_.find(dimension);
  const std::string units = coordinate == nullptr ? "" : lower(file_.text(*coordinate, "units"));
  if (is_one_of(units, {"degrees_north", "degree_north", "degrees_n", "degree_n"})) return Role::latitude;
  if (is_one_of(units, {"degrees_east", "degree_east", "degrees_e", "degree_e"})) return Role::longitude;
  if (units.find(" since ") != std::string::npos) return Role::time;
  const std::string name = lower(dimension);
  if (is_one_of(name, {"latitude", "lat"})) return Role::latitude;
  if (is_one_of(name, {"longitude", "lon"})) return Role::longitude;
  if (is_one_of(name, {"time", "t", "valid_time", "day", "month", "year"})) return Role::time;
  return Role::level;
}

std::vector<NetCdfFields::Role> NetCdfFields::roles_of(const NetCdfVariable& variable) const {
  std::vector<Role> roles;
  for (const std::string& dimension : variable.dimensions) roles.push_back(role_of(dimension));
  const auto count = [&](Role role) { return std::count(roles.begin(), roles.end(), role); };
  TORCH_CHECK_VALUE(count(Role::latitude) == 1, file_.path(), ": ", dimensions_of(variable), " has ",
                    count(Role::latitude), " dimensions that are latitudes (units degrees_north, or named latitude or ",
                    "lat), expected 1");
  TORCH_CHECK_VALUE(count(Role::longitude) == 1, file_.path(), ": ", dimensions_of(variable), " has ",
                    count(Role::longitude), " dimensions that are longitudes (units degrees_east, or named longitude ",
                    "or lon), expected 1");
  TORCH_CHECK_VALUE(count(Role::time) <= 1 && count(Role::level) <= 1, file_.path(), ": ", dimensions_of(variable),
                    " has more dimensions than latitude, longitude, a time and a level");
  return roles;
}

void NetCdfFields::take_size(const NetCdfVariable& variable, Role role, int64_t size) {
  int64_t& known = role == Role::time       ? times_
                   : role == Role::level    ? levels_
                   : role == Role::latitude ? rows_
                                            : columns_;
  TORCH_CHECK_VALUE(size > 0, file_.path(), ": ", dimensions_of(variable), " is empty");
  TORCH_CHECK_VALUE(known == 0 || known == size, file_.path(), ": ", dimensions_of(variable),
                    " does not have the sizes of the other variables: expected ", known, ", got ", size);
  known = size;
}

void NetCdfFields::read_latitudes(const std::string& dimension) {
  const NetCdfVariable* coordinate = file_.find(dimension);
  TORCH_CHECK_VALUE(coordinate != nullptr && coordinate->sizes.size() == 1, file_.path(), ": the dimension ", dimension,
                    " has no coordinate variable with the latitudes");
  const at::Tensor values = file_.read(*coordinate, {0}, {rows_});
  latitudes_.assign(values.const_data_ptr<double>(), values.const_data_ptr<double>() + rows_);
  from_south_ = latitudes_.front() < latitudes_.back();
  if (from_south_) std::reverse(latitudes_.begin(), latitudes_.end());
  const auto not_south = [](double north, double south) { return north <= south; };
  TORCH_CHECK_VALUE(std::adjacent_find(latitudes_.begin(), latitudes_.end(), not_south) == latitudes_.end(),
                    file_.path(), ": the latitudes are not in order");
}

at::Tensor NetCdfFields::read(const std::string& name, int64_t time, int64_t begin, int64_t end) const {
  const NetCdfVariable& variable = file_.variable(name);
  const std::vector<Role> roles = roles_of(variable);
  std::vector<int64_t> start(roles.size(), 0), count = variable.sizes;
  std::vector<int64_t> order;
  int64_t levels = 1;
  for (const Role role : {Role::time, Role::level, Role::latitude, Role::longitude}) {
    const auto i = std::find(roles.begin(), roles.end(), role) - roles.begin();
    if (i == static_cast<int64_t>(roles.size())) continue;
    order.push_back(i);
    if (role == Role::time) {
      start[i] = time;
      count[i] = 1;
    } else if (role == Role::level) {
      levels = levels_;
    } else if (role == Role::latitude) {
      start[i] = from_south_ ? rows_ - end : begin;
      count[i] = end - begin;
    }
  }
  const at::Tensor values = file_.read(variable, start, count).permute(order).reshape({levels, end - begin, columns_});
  const at::Tensor from_north = from_south_ ? values.flip({1}) : values;
  return from_north.expand({levels_, -1, -1}).contiguous();
}

}  // namespace graticule::apps

#ifdef GRATICULE_HAVE_NETCDF

#include "netcdf_file.hpp"

#include <ATen/ATen.h>
#include <netcdf.h>

#include <array>
#include <utility>

namespace graticule::apps {

NetCdfFile::NetCdfFile(std::string path) : path_(std::move(path)) {
  check(nc_open(path_.c_str(), NC_NOWRITE, &id_), "opening it");
  try {
    read_variables();
  } catch (...) {
    nc_close(id_);
    throw;
  }
}

NetCdfFile::~NetCdfFile() { nc_close(id_); }

void NetCdfFile::check(int status, const std::string& what) const {
  TORCH_CHECK(status == NC_NOERR, path_, ": ", what, ": ", nc_strerror(status));
}

void NetCdfFile::read_variables() {
  int count = 0;
  check(nc_inq_nvars(id_, &count), "counting the variables");
  for (int id = 0; id < count; ++id) {
    std::array<char, NC_MAX_NAME + 1> name{};
    nc_type type = NC_NAT;
    int rank = 0;
    std::array<int, NC_MAX_VAR_DIMS> dimensions{};
    check(nc_inq_var(id_, id, name.data(), &type, &rank, dimensions.data(), nullptr), "reading its variables");
    NetCdfVariable variable{name.data(), id, type == NC_FLOAT || type == NC_DOUBLE, {}, {}};
    for (int i = 0; i < rank; ++i) {
      size_t size = 0;
      check(nc_inq_dim(id_, dimensions[i], name.data(), &size), "reading its dimensions");
      variable.dimensions.emplace_back(name.data());
      variable.sizes.push_back(static_cast<int64_t>(size));
    }
    variables_.push_back(std::move(variable));
  }
}

const NetCdfVariable* NetCdfFile::find(const std::string& name) const {
  for (const NetCdfVariable& variable : variables_) {
    if (variable.name == name) return &variable;
  }
  return nullptr;
}

const NetCdfVariable& NetCdfFile::variable(const std::string& name) const {
  if (const NetCdfVariable* found = find(name)) return *found;
  std::string names;
  for (const NetCdfVariable& variable : variables_) names += (names.empty() ? "" : ", ") + variable.name;
  TORCH_CHECK_VALUE(false, path_, ": no variable \"", name, "\"; it has ", names);
}

std::string NetCdfFile::text(const NetCdfVariable& variable, const std::string& attribute) const {
  nc_type type = NC_NAT;
  size_t length = 0;
  if (nc_inq_att(id_, variable.id, attribute.c_str(), &type, &length) != NC_NOERR || length == 0) return {};
  if (type == NC_CHAR) {
    std::string value(length, '\0');
    check(nc_get_att_text(id_, variable.id, attribute.c_str(), value.data()), "reading " + attribute);
    return value;
  }
  if (type != NC_STRING || length != 1) return {};
  char* text = nullptr;
  check(nc_get_att_string(id_, variable.id, attribute.c_str(), &text), "reading " + attribute);
  std::string value = text == nullptr ? "" : text;
  nc_free_string(1, &text);
  return value;
}

std::optional<double> NetCdfFile::number(const NetCdfVariable& variable, const std::string& attribute) const {
  nc_type type = NC_NAT;
  size_t length = 0;
  if (nc_inq_att(id_, variable.id, attribute.c_str(), &type, &length) != NC_NOERR) return std::nullopt;
  if (type == NC_CHAR || type == NC_STRING || length != 1) return std::nullopt;
  double value = 0;
  check(nc_get_att_double(id_, variable.id, attribute.c_str(), &value), "reading " + attribute);
  return value;
}

void NetCdfFile::check_complete(const NetCdfVariable& variable, const at::Tensor& stored) const {
  std::vector<double> missing;
  for (const char* attribute : {"_FillValue", "missing_value"}) {
    if (const auto value = number(variable, attribute)) missing.push_back(*value);
  }
  if (variable.floating && missing.empty()) missing.push_back(NC_FILL_DOUBLE);
  at::Tensor absent = stored.isnan();
  for (const double value : missing) absent = absent.logical_or(stored == value);
  const auto count = absent.sum().item<int64_t>();
  TORCH_CHECK_VALUE(count == 0, path_, ": ", variable.name, " has missing values (", count, " of ", stored.numel(),
                    " read); graticule needs complete fields");
}

at::Tensor NetCdfFile::read(const NetCdfVariable& variable, const std::vector<int64_t>& start,
                            const std::vector<int64_t>& count) const {
  at::Tensor stored = at::empty(count, at::kDouble);
  if (stored.numel() == 0) return stored;
  const std::vector<size_t> first(start.begin(), start.end()), length(count.begin(), count.end());
  check(nc_get_vara_double(id_, variable.id, first.data(), length.data(), stored.mutable_data_ptr<double>()),
        "reading " + variable.name);
  check_complete(variable, stored);
  const double scale = number(variable, "scale_factor").value_or(1);
  const double offset = number(variable, "add_offset").value_or(0);
  return stored.mul_(scale).add_(offset);
}

}  // namespace graticule::apps

#endif

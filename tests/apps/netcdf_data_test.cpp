#include "netcdf_data.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#ifdef GRATICULE_HAVE_NETCDF
#include <netcdf.h>
#endif

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "support/threads.hpp"

namespace graticule::apps {
namespace {

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const c10::Error& e) {
    return e.what_without_backtrace();
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

#ifdef GRATICULE_HAVE_NETCDF

constexpr int64_t times = 4, levels = 2, rows = 7, columns = 6;

void require(int status) { TORCH_CHECK(status == NC_NOERR, nc_strerror(status)); }

// The stored number of a cell of the small file; `north_row` counts from the north.
int16_t stored(int64_t time, int64_t level, int64_t north_row, int64_t column) {
  return static_cast<int16_t>(1000 * time + 100 * level + 10 * north_row + column);
}

struct Small {
  bool from_south = true;
  int64_t columns = apps::columns;
  const char* latitude_units = "degrees_north";
  const char* latitude_name = "y";
  int16_t missing_at_south = 0;  // stored as the southernmost row's first value where not 0
};

// Writes "packed"(time, level, latitude, longitude) as int16 with scale 0.5 and offset 10, "surface"(longitude,
// latitude) as double, and coordinates.
class SmallFile {
 public:
  explicit SmallFile(const Small& small) {
    static int count = 0;
    path_ = (std::filesystem::temp_directory_path() /
             ("graticule_" + std::to_string(::getpid()) + "_" + std::to_string(count++) + ".nc"))
                .string();
    write(small);
  }
  SmallFile(const SmallFile&) = delete;
  SmallFile& operator=(const SmallFile&) = delete;
  ~SmallFile() { std::filesystem::remove(path_); }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  void write(const Small& small) const {
    int file = 0, time = 0, level = 0, latitude = 0, longitude = 0, y = 0, packed = 0, surface = 0;
    require(nc_create(path_.c_str(), NC_CLOBBER, &file));
    require(nc_def_dim(file, "time", times, &time));
    require(nc_def_dim(file, "level", levels, &level));
    require(nc_def_dim(file, small.latitude_name, rows, &latitude));
    require(nc_def_dim(file, "lon", small.columns, &longitude));
    require(nc_def_var(file, small.latitude_name, NC_DOUBLE, 1, &latitude, &y));
    require(nc_put_att_text(file, y, "units", std::string(small.latitude_units).size(), small.latitude_units));
    const int whole[] = {time, level, latitude, longitude};
    const int flat[] = {longitude, latitude};
    require(nc_def_var(file, "packed", NC_SHORT, 4, whole, &packed));
    require(nc_def_var(file, "surface", NC_DOUBLE, 2, flat, &surface));
    const double scale = 0.5, offset = 10;
    const int16_t fill = -999;
    require(nc_put_att_double(file, packed, "scale_factor", NC_DOUBLE, 1, &scale));
    require(nc_put_att_double(file, packed, "add_offset", NC_DOUBLE, 1, &offset));
    require(nc_put_att_short(file, packed, "_FillValue", NC_SHORT, 1, &fill));
    require(nc_put_att_text(file, packed, "units", 1, "K"));
    require(nc_enddef(file));
    put(small, file, y, packed, surface);
    require(nc_close(file));
  }

  static void put(const Small& small, int file, int y, int packed, int surface) {
    std::vector<double> latitudes, flat(small.columns * rows);
    std::vector<int16_t> values;
    const auto north = [&](int64_t row) { return small.from_south ? rows - 1 - row : row; };
    for (int64_t row = 0; row < rows; ++row) latitudes.push_back(60.0 - 20.0 * static_cast<double>(north(row)));
    for (int64_t column = 0; column < small.columns; ++column) {
      for (int64_t row = 0; row < rows; ++row) {
        flat[column * rows + row] = 0.25 * static_cast<double>(stored(0, 0, north(row), column));
      }
    }
    for (int64_t time = 0; time < times; ++time) {
      for (int64_t level = 0; level < levels; ++level) {
        for (int64_t row = 0; row < rows; ++row) {
          for (int64_t column = 0; column < small.columns; ++column) {
            const bool missing = small.missing_at_south != 0 && north(row) == rows - 1 && column == 0;
            values.push_back(missing ? small.missing_at_south : stored(time, level, north(row), column));
          }
        }
      }
    }
    require(nc_put_var_double(file, y, latitudes.data()));
    require(nc_put_var_short(file, packed, values.data()));
    require(nc_put_var_double(file, surface, flat.data()));
  }

  std::string path_;
};

// What the small file's packed variable holds: (levels, rows, columns), north to south.
at::Tensor packed_at(int64_t time) {
  at::Tensor result = at::empty({levels, rows, columns}, at::kDouble);
  auto values = result.accessor<double, 3>();
  for (int64_t level = 0; level < levels; ++level) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < columns; ++column) {
        values[level][row][column] = 10 + 0.5 * stored(time, level, row, column);
      }
    }
  }
  return result;
}

NetCdfOptions options_for(const std::string& path) {
  NetCdfOptions options;
  options.path = path;
  options.input_names = {"packed", "surface"};
  options.target_names = {"packed"};
  return options;
}

class NetCdfDataOrder : public ::testing::TestWithParam<bool> {};

TEST_P(NetCdfDataOrder, DeliversUnpackedRowsNorthToSouth) {
  Small small;
  small.from_south = GetParam();
  const SmallFile file(small);
  const DataSet data = read_netcdf(options_for(file.path()), std::nullopt);
  EXPECT_EQ(data.latitudes, (std::vector<double>{60, 40, 20, 0, -20, -40, -60}));
  EXPECT_EQ(data.offsets, (std::vector<int64_t>{0, rows}));
  EXPECT_EQ(data.columns, columns);
  EXPECT_EQ(data.target_units, std::vector<std::string>{"K"});
  EXPECT_EQ(data.baseline_name, "climatology");
  // Two times by two levels: to train on, and to test on.
  ASSERT_EQ(data.training.inputs.sizes(), at::IntArrayRef({4, 2, 2, rows, columns}));
  ASSERT_EQ(data.test.targets.sizes(), at::IntArrayRef({4, 1, 1, rows, columns}));
  for (int64_t level = 0; level < levels; ++level) {
    const auto packed = [&](int64_t time) { return packed_at(time)[level]; };
    EXPECT_TRUE(at::equal(data.training.inputs[level][0][0], packed(0)));
    EXPECT_TRUE(at::equal(data.training.inputs[level][0][1], packed(0)));
    EXPECT_TRUE(at::equal(data.training.inputs[levels + level][0][0], packed(0)));
    EXPECT_TRUE(at::equal(data.training.inputs[levels + level][0][1], packed(1)));
    EXPECT_TRUE(at::equal(data.training.inputs[level][1][0], (packed_at(0)[0] - 10) / 2));
    EXPECT_TRUE(at::equal(data.test.targets[level][0][0], packed(2)));
    EXPECT_TRUE(at::equal(data.test.targets[levels + level][0][0], packed(3)));
    EXPECT_TRUE(at::equal(data.test.baseline[levels + level][0][0], (packed(0) + packed(1)) / 2));
    EXPECT_TRUE(at::equal(data.training.baseline[level][0][0], (packed(0) + packed(1)) / 2));
  }
}

INSTANTIATE_TEST_SUITE_P(Orders, NetCdfDataOrder, ::testing::Bool());

TEST(NetCdfData, TimesCanBeChosen) {
  const SmallFile file(Small{});
  NetCdfOptions options = options_for(file.path());
  options.training_times = {3};
  options.test_times = {1, 2};
  const DataSet data = read_netcdf(options, std::nullopt);
  ASSERT_EQ(data.training.inputs.size(0), 2);
  ASSERT_EQ(data.test.inputs.size(0), 4);
  EXPECT_TRUE(at::equal(data.training.inputs[0][0][0], packed_at(3)[0]));  // time 2 is held out
  EXPECT_TRUE(at::equal(data.test.inputs[3][0][0], packed_at(1)[1]));
  EXPECT_TRUE(at::equal(data.test.inputs[3][0][1], packed_at(2)[1]));
}

TEST(NetCdfData, LatitudesAreFoundByNameToo) {
  Small small;
  small.latitude_units = "1";
  small.latitude_name = "Latitude";
  const SmallFile file(small);
  EXPECT_EQ(read_netcdf(options_for(file.path()), std::nullopt).latitudes.front(), 60);
}

class NetCdfDataCut : public ::testing::TestWithParam<int> {};

TEST_P(NetCdfDataCut, EachRankHoldsItsRows) {
  const SmallFile file(Small{});
  const DataSet whole = read_netcdf(options_for(file.path()), std::nullopt);
  support::run_ranks(GetParam(), [&](const comm::Domain& domain) {
    const DataSet own = read_netcdf(options_for(file.path()), domain);
    const int64_t first = own.offsets[domain.rank()], count = own.offsets[domain.rank() + 1] - first;
    EXPECT_EQ(own.latitudes, whole.latitudes);
    const auto expect_rows = [&](const at::Tensor& part, const at::Tensor& all) {
      EXPECT_TRUE(at::equal(part, all.narrow(3, first, count)));
    };
    expect_rows(own.training.inputs, whole.training.inputs);
    expect_rows(own.test.targets, whole.test.targets);
    expect_rows(own.test.baseline, whole.test.baseline);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, NetCdfDataCut, ::testing::Values(1, 3, 9));

TEST(NetCdfData, WhatOneRankFindsIsAnErrorOnAll) {
  Small small;
  small.missing_at_south = -999;
  const SmallFile file(small);
  support::run_ranks(3, [&](const comm::Domain& domain) {
    const std::string error = error_of([&] { read_netcdf(options_for(file.path()), domain); });
    EXPECT_TRUE(contains(error, "packed has missing values")) << error;
    EXPECT_TRUE(contains(error, "found by rank 2 of 3")) << error;
  });
}

TEST(NetCdfData, ErrorsNameWhatWasFound) {
  const SmallFile file(Small{});
  const auto error_with = [&](const std::function<void(NetCdfOptions&)>& change) {
    NetCdfOptions options = options_for(file.path());
    change(options);
    return error_of([&] { read_netcdf(options, std::nullopt); });
  };
  EXPECT_TRUE(contains(error_with([](auto& o) { o.path = "/nowhere.nc"; }), "/nowhere.nc: opening it: No such file"));
  EXPECT_TRUE(
      contains(error_with([](auto& o) { o.input_names = {"z"}; }), "no variable \"z\"; it has y, packed, surface"));
  EXPECT_TRUE(
      contains(error_with([](auto& o) { o.target_names = {"y"}; }), "y(y = 7) has 0 dimensions that are longitudes"));
  EXPECT_TRUE(contains(error_with([](auto& o) { o.target_names = {}; }), "at least one variable"));
  EXPECT_TRUE(contains(error_with([](auto& o) { o.training_times = {0}; }), "must both be given"));
  EXPECT_TRUE(
      contains(error_with([](auto& o) { o.training_times = o.test_times = {4}; }), "time index 4 is not in [0, 4)"));
  EXPECT_TRUE(
      contains(error_with([](auto& o) { o.input_names = o.target_names = {"surface"}; }), "one time cannot be split"));
}

TEST(NetCdfData, GridsThatCannotBeAreErrors) {
  const auto error_of_small = [](const Small& small) {
    const SmallFile file(small);
    return error_of([&] { read_netcdf(options_for(file.path()), std::nullopt); });
  };
  Small small;
  small.latitude_units = "m";
  EXPECT_TRUE(contains(error_of_small(small), "has 0 dimensions that are latitudes"));
  small = {};
  small.columns = 5;
  EXPECT_TRUE(contains(error_of_small(small), "their number must be even"));
}

TEST(NetCdfData, ReadsRealReanalysis) {
  const char* folder = std::getenv("GRATICULE_TEST_DATA");
  const std::filesystem::path path = std::filesystem::path(folder == nullptr ? "" : folder) / "eraint_uvz.nc";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "set GRATICULE_TEST_DATA to the folder of eraint_uvz.nc";
  NetCdfOptions options;
  options.path = path.string();
  options.input_names = {"z"};
  options.target_names = {"u", "v"};
  const DataSet whole = read_netcdf(options, std::nullopt);
  EXPECT_EQ(whole.training.inputs.sizes(), at::IntArrayRef({3, 1, 2, 241, 480}));
  EXPECT_EQ(whole.test.targets.sizes(), at::IntArrayRef({3, 2, 1, 241, 480}));
  EXPECT_EQ(whole.latitudes.front(), 90);
  EXPECT_EQ(whole.latitudes.back(), -90);
  EXPECT_EQ(whole.target_units, (std::vector<std::string>{"m s**-1", "m s**-1"}));
  // January's westerlies: the jet streams of the northern winter are the faster ones.
  const at::Tensor jets = whole.training.targets.select(1, 0).select(1, 0).mean(2).amax(0);
  EXPECT_GT(jets.narrow(0, 0, 120).max().item<double>(), jets.narrow(0, 121, 120).max().item<double>());
  EXPECT_GT(jets.max().item<double>(), 30);
  EXPECT_LT(whole.training.targets.abs().max().item<double>(), 120);
  support::run_ranks(3, [&](const comm::Domain& domain) {
    const DataSet own = read_netcdf(options, domain);
    const int64_t first = own.offsets[domain.rank()], count = own.offsets[domain.rank() + 1] - first;
    EXPECT_TRUE(at::equal(own.test.inputs, whole.test.inputs.narrow(3, first, count)));
    EXPECT_TRUE(at::equal(own.test.targets, whole.test.targets.narrow(3, first, count)));
  });
}

#else

TEST(NetCdfData, WithoutNetCdfTheErrorSaysWhatToInstall) {
  NetCdfOptions options;
  options.path = "file.nc";
  EXPECT_TRUE(contains(error_of([&] { read_netcdf(options, std::nullopt); }), "apt-get install libnetcdf-dev"));
}

#endif

}  // namespace
}  // namespace graticule::apps

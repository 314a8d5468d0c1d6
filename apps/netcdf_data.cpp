#include "netcdf_data.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <numeric>

#include "graticule/comm/collectives.hpp"
#include "graticule/rows/interval.hpp"
#include "graticule/rows/partition.hpp"
#include "netcdf_fields.hpp"

namespace graticule::apps {
namespace {

#ifdef GRATICULE_HAVE_NETCDF

struct Split {
  std::vector<int64_t> training, test;
};

Split split_times(const NetCdfOptions& options, int64_t times) {
  Split split{options.training_times, options.test_times};
  if (split.training.empty() && split.test.empty()) {
    TORCH_CHECK_VALUE(times >= 2, options.path, ": one time cannot be split into training and test");
    split.training.resize(times / 2);
    split.test.resize(times - times / 2);
    std::iota(split.training.begin(), split.training.end(), 0);
    std::iota(split.test.begin(), split.test.end(), times / 2);
  }
  TORCH_CHECK_VALUE(!split.training.empty() && !split.test.empty(), options.path,
                    ": times to train on and times to test on must both be given, or neither");
  for (const auto& list : {split.training, split.test}) {
    for (const int64_t time : list) {
      TORCH_CHECK_VALUE(time >= 0 && time < times, options.path, ": time index ", time, " is not in [0, ", times, ")");
    }
  }
  return split;
}

// The named variables at one time: (levels, variables, rows, columns).
at::Tensor read_all(const NetCdfFields& fields, const std::vector<std::string>& names, int64_t time,
                    const rows::Interval& own) {
  std::vector<at::Tensor> parts;
  for (const std::string& name : names) parts.push_back(fields.read(name, time, own.begin, own.end));
  return at::stack(parts, 1);
}

Samples read_samples(const NetCdfFields& fields, const NetCdfOptions& options, const std::vector<int64_t>& times,
                     const rows::Interval& own) {
  std::vector<at::Tensor> inputs, targets;
  for (const int64_t time : times) {
    const bool has_before = std::find(times.begin(), times.end(), time - 1) != times.end();
    const at::Tensor now = read_all(fields, options.input_names, time, own);
    const at::Tensor before = has_before ? read_all(fields, options.input_names, time - 1, own) : now;
    inputs.push_back(at::stack({before, now}, 2));
    targets.push_back(read_all(fields, options.target_names, time, own).unsqueeze(2));
  }
  return {at::cat(inputs), at::cat(targets), {}};
}

// Each level's mean over the times of the training targets, once for each sample of `samples`.
at::Tensor climatology(const Samples& training, const Samples& samples, int64_t levels) {
  const at::Tensor mean = training.targets.unflatten(0, {-1, levels}).mean(0);
  return mean.repeat({samples.targets.size(0) / levels, 1, 1, 1, 1});
}

std::vector<std::string> names_of(const NetCdfOptions& options) {
  TORCH_CHECK_VALUE(!options.input_names.empty() && !options.target_names.empty(), options.path,
                    ": name at least one variable as input and one as target");
  std::vector<std::string> names = options.input_names;
  names.insert(names.end(), options.target_names.begin(), options.target_names.end());
  return names;
}

// What `rank` of `ranks` holds. No communication.
DataSet read_own(const NetCdfOptions& options, int rank, int ranks) {
  static std::mutex netcdf_mutex;
  const std::lock_guard lock(netcdf_mutex);
  const std::vector<std::string> names = names_of(options);
  const NetCdfFile file(options.path);
  const NetCdfFields fields(file, names);
  const Split split = split_times(options, fields.times());
  const auto partition = rows::Partition::balanced(static_cast<int64_t>(fields.latitudes().size()), ranks);
  const rows::Interval own = partition.interval(rank);

  DataSet data;
  data.offsets = partition.offsets();
  data.latitudes = fields.latitudes();
  data.columns = fields.columns();
  data.input_names = options.input_names;
  data.target_names = options.target_names;
  for (const std::string& name : options.target_names) {
    data.target_units.push_back(file.text(file.variable(name), "units"));
  }
  data.baseline_name = "climatology";
  data.training = read_samples(fields, options, split.training, own);
  data.test = read_samples(fields, options, split.test, own);
  data.training.baseline = climatology(data.training, data.training, fields.levels());
  data.test.baseline = climatology(data.training, data.test, fields.levels());
  return data;
}

#else

DataSet read_own(const NetCdfOptions& options, int, int) {
  TORCH_CHECK(false, options.path, ": this program was built without NetCDF. Install its C library ",
              "(apt-get install libnetcdf-dev) and build again");
}

#endif

// Throws on every rank what the first rank with an error says.
void agree(const comm::Domain& domain, const std::string& error) {
  constexpr size_t room = 2048;
  at::Tensor text = at::zeros({room}, at::kByte);
  std::memcpy(text.mutable_data_ptr(), error.data(), std::min(error.size(), room - 1));
  const std::vector<at::Tensor> all = comm::all_gather(domain, text, "read_netcdf");
  for (size_t rank = 0; rank < all.size(); ++rank) {
    const std::string theirs = static_cast<const char*>(all[rank].const_data_ptr());
    TORCH_CHECK_VALUE(theirs.empty(), theirs, " (found by rank ", rank, " of ", domain.size(), ")");
  }
}

}  // namespace

DataSet read_netcdf(const NetCdfOptions& options, const std::optional<comm::Domain>& domain) {
  if (!domain) return read_own(options, 0, 1);
  DataSet data;
  std::string error;
  try {
    data = read_own(options, domain->rank(), domain->size());
  } catch (const c10::Error& e) {
    error = e.what_without_backtrace();
  } catch (const std::exception& e) {
    error = e.what();
  }
  agree(*domain, error);
  return data;
}

}  // namespace graticule::apps

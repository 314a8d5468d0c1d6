#include "measurements.hpp"

#include <ATen/ATen.h>
#include <sys/resource.h>

#include "graticule/comm/collectives.hpp"

namespace graticule::apps {

double peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  // Linux counts in KiB.
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

OverRanks over_ranks(double value, const comm::Domain& domain) {
  const at::Tensor all = at::stack(comm::all_gather(domain, at::tensor(value, at::kDouble), "measurements"));
  return {all.min().item<double>(), all.max().item<double>(), all.sum().item<double>()};
}

}  // namespace graticule::apps

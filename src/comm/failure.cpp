#include "comm/failure.hpp"

#include <ATen/ATen.h>

#include "graticule/comm/exchange.hpp"

namespace graticule::comm {

std::string where(const Domain& domain) { return c10::str(" (rank ", domain.rank(), " of ", domain.size(), ")"); }

void fail(const Domain& domain, const std::string& why) {
  poison(domain, why);
  TORCH_CHECK(false, why);
}

}  // namespace graticule::comm

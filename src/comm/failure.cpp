#include "comm/failure.hpp"

#include <ATen/ATen.h>

#include "graticule/comm/exchange.hpp"

namespace graticule::comm {

void fail(const Domain& domain, const std::string& why) {
  poison(domain, why);
  TORCH_CHECK(false, why);
}

}  // namespace graticule::comm

#include "comparison.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

namespace graticule::apps {

double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK_VALUE(a.sizes() == b.sizes(), "tensors to compare must have one shape, got ", a.sizes(), " and ",
                    b.sizes());
  if (a.numel() == 0) return 0;
  const auto difference = (a - b).abs().max().item<double>();
  if (difference == 0) return 0;
  const double relative = difference / b.abs().max().item<double>();
  return std::isfinite(relative) ? relative : std::numeric_limits<double>::infinity();
}

}  // namespace graticule::apps

#include "area_weights.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

namespace graticule::apps {

at::Tensor area_weights(const std::vector<double>& latitudes) {
  TORCH_CHECK_VALUE(latitudes.size() >= 2, "area weights need 2 rows or more, got ", latitudes.size());
  std::vector<double> edges{90};
  for (size_t i = 1; i < latitudes.size(); ++i) {
    TORCH_CHECK_VALUE(latitudes[i] < latitudes[i - 1], "expected latitudes from north to south, got ", latitudes[i - 1],
                      " and then ", latitudes[i]);
    edges.push_back((latitudes[i - 1] + latitudes[i]) / 2);
  }
  edges.push_back(-90);
  const at::Tensor sines = (at::tensor(edges, at::kDouble) * (std::numbers::pi / 180)).sin();
  const at::Tensor areas = sines.slice(0, 0, -1) - sines.slice(0, 1);
  return areas / areas.sum();
}

at::Tensor area_weights(const std::vector<double>& latitudes, int64_t begin, int64_t end) {
  return area_weights(latitudes).slice(0, begin, end).unsqueeze(-1);
}

}  // namespace graticule::apps

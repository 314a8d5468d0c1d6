// Parameters and statistics of a group normalisation as plain numbers in double, and back.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace graticule::ops {

/// A parameter's values, or `otherwise` for each of the channels where there is none. The parameter is a CPU tensor of
/// float, double, half or bfloat16.
std::vector<double> values_of(const std::optional<at::Tensor>& parameter, int64_t channels, double otherwise);

/// The values, rounded to `type`, as a tensor of one dimension with like's other options.
at::Tensor tensor_of(const std::vector<double>& values, at::ScalarType type, const at::Tensor& like);

/// Tensors of float64 as they came over the wire, and where their values lie, densely, as long as this lives.
struct Parts {
  explicit Parts(const std::vector<at::Tensor>& tensors) {
    for (const at::Tensor& tensor : tensors) {
      kept.push_back(tensor.contiguous());
      values.push_back(kept.back().const_data_ptr<double>());
    }
  }
  std::vector<at::Tensor> kept;
  std::vector<const double*> values;
};

}  // namespace graticule::ops

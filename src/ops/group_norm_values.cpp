#include "ops/group_norm_values.hpp"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <algorithm>

namespace graticule::ops {

std::vector<double> values_of(const std::optional<at::Tensor>& parameter, int64_t channels, double otherwise) {
  std::vector<double> values(channels, otherwise);
  if (!parameter.has_value() || !parameter->defined()) return values;
  const at::Tensor dense = parameter->contiguous();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dense.scalar_type(), "group_norm",
                                  [&] { std::copy_n(dense.const_data_ptr<scalar_t>(), channels, values.begin()); });
  return values;
}

at::Tensor tensor_of(const std::vector<double>& values, at::ScalarType type, const at::Tensor& like) {
  at::Tensor result = at::empty({static_cast<int64_t>(values.size())}, like.options().dtype(type));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, type, "group_norm", [&] {
    auto* to = result.mutable_data_ptr<scalar_t>();
    for (const double value : values) *to++ = static_cast<scalar_t>(value);
  });
  return result;
}

}  // namespace graticule::ops

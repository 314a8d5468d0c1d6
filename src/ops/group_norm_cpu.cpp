#include "ops/group_norm_cpu.hpp"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "graticule/halo/memory_format.hpp"
#include "ops/group_norm_steps.hpp"
#include "ops/group_norm_values.hpp"

namespace graticule::ops {
namespace {

at::Tensor prepare(const at::Tensor& t, const at::Tensor& x) {
  return t.to(x.scalar_type()).contiguous(halo::memory_format(x));
}

std::pair<at::Tensor, at::Tensor> parameter_gradients(const at::Tensor& sums, const at::Tensor& rstd,
                                                      at::ScalarType type, std::array<bool, 2> wanted) {
  const int64_t channels = sums.size(2);
  const int64_t planes = sums.size(1) * channels;
  const Parts parts({sums, rstd});
  const int64_t width = rstd.size(1) > 0 ? channels / rstd.size(1) : 1;
  std::vector<double> weight(channels, 0.0);
  std::vector<double> bias(channels, 0.0);
  for (int64_t i = 0; i < planes; ++i) {
    weight[i % channels] += parts.values[0][i] * parts.values[1][i / width];
    bias[i % channels] += parts.values[0][planes + i];
  }
  return {wanted[0] ? tensor_of(weight, type, sums) : at::Tensor(),
          wanted[1] ? tensor_of(bias, type, sums) : at::Tensor()};
}

at::Tensor group_sums(const at::Tensor& sums, const std::optional<at::Tensor>& weight, int64_t groups) {
  const int64_t samples = sums.size(1);
  const int64_t channels = sums.size(2);
  at::Tensor result = at::empty({2, samples, groups}, sums.options());
  auto* to = result.mutable_data_ptr<double>();
  std::fill_n(to, result.numel(), 0.0);
  const std::vector<double> factors = values_of(weight, channels, 1);
  const at::Tensor dense = sums.contiguous();
  const auto* from = dense.const_data_ptr<double>();
  for (int64_t i = 0; i < sums.numel(); ++i) to[i / (channels / groups)] += from[i] * factors[i % channels];
  return result;
}

}  // namespace

const GroupNormSteps& cpu_group_norm_steps() {
  static constexpr GroupNormSteps steps{"one pass",    prepare,           cpu_moments,
                                        cpu_normalise, cpu_channel_sums,  parameter_gradients,
                                        group_sums,    cpu_input_gradient};
  return steps;
}

}  // namespace graticule::ops

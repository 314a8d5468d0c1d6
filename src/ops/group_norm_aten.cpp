#include <ATen/ATen.h>

#include <limits>

#include "graticule/halo/memory_format.hpp"
#include "ops/group_norm_steps.hpp"

namespace graticule::ops {
namespace {

using Optional = std::optional<at::Tensor>;

at::ScalarType wide(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// (N, C) as it multiplies x.
at::Tensor per_channel(const at::Tensor& values, const at::Tensor& x) {
  std::vector<int64_t> sizes(x.dim(), 1);
  sizes[0] = x.size(0);
  sizes[1] = x.size(1);
  return values.to(wide(x)).reshape(sizes);
}

// (N, groups) spread over the channels of each group: (N, C).
at::Tensor to_channels(const at::Tensor& per_group, int64_t channels) {
  return per_group.unsqueeze(-1)
      .expand({per_group.size(0), per_group.size(1), channels / per_group.size(1)})
      .reshape({per_group.size(0), channels});
}

std::vector<int64_t> spatial_axes(const at::Tensor& x) {
  std::vector<int64_t> axes;
  for (int64_t d = 2; d < x.dim(); ++d) axes.push_back(d);
  return axes;
}

at::Tensor channel_factor(const Optional& weight, const at::Tensor& like) {
  if (!weight.has_value() || !weight->defined()) return at::ones({1, 1}, like.options());
  return weight->to(like.scalar_type()).unsqueeze(0);
}

at::Tensor as(const at::Tensor& result, const at::Tensor& x) {
  return result.to(x.scalar_type()).contiguous(halo::memory_format(x));
}

at::Tensor prepare(const at::Tensor& t, const at::Tensor&) { return t; }

at::Tensor moments(const at::Tensor& x, int64_t groups) {
  if (x.numel() == 0) return at::zeros({2, x.size(0), groups}, x.options().dtype(at::kDouble));
  const at::Tensor flat = x.to(wide(x)).reshape({x.size(0), groups, -1});
  const auto [variance, mean] = at::var_mean(flat, at::OptionalIntArrayRef{2}, /*correction=*/at::Scalar(0));
  return at::stack({mean.to(at::kDouble), variance.to(at::kDouble) * static_cast<double>(flat.size(2))});
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> normalise(const at::Tensor& x, const Optional& weight,
                                                         const Optional& bias, const std::vector<at::Tensor>& parts,
                                                         const std::vector<double>& counts, double eps) {
  double total = 0;
  for (const double count : counts) total += count;
  at::Tensor mean = at::zeros_like(parts[0][0]);
  for (size_t rank = 0; rank < parts.size(); ++rank) mean.add_(parts[rank][0], counts[rank] / total);
  at::Tensor deviations = at::zeros_like(mean);
  for (size_t rank = 0; rank < parts.size(); ++rank) {
    if (counts[rank] == 0) continue;
    deviations.add_(parts[rank][1]).add_((parts[rank][0] - mean).square_(), counts[rank]);
  }
  // As uncut: squares that overflow leave nothing to scale by.
  deviations.masked_fill_(deviations.isinf(), std::numeric_limits<double>::quiet_NaN());
  const at::Tensor rstd = (deviations / total + eps).rsqrt_();

  const at::Tensor scale = to_channels(rstd, x.size(1)) * channel_factor(weight, rstd);
  at::Tensor shift = -to_channels(mean, x.size(1)) * scale;
  if (bias.has_value() && bias->defined()) shift = shift + bias->to(at::kDouble).unsqueeze(0);
  return {as(at::addcmul(per_channel(shift, x), x.to(wide(x)), per_channel(scale, x)), x), mean, rstd};
}

at::Tensor channel_sums(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean) {
  const at::Tensor g = grad.to(wide(x));
  const at::Tensor products = (g * x.to(wide(x))).sum(spatial_axes(x)).to(at::kDouble);
  const at::Tensor sums = g.sum(spatial_axes(x)).to(at::kDouble);
  return at::stack({products - sums * to_channels(mean, x.size(1)), sums});
}

std::pair<at::Tensor, at::Tensor> parameter_gradients(const at::Tensor& sums, const at::Tensor& rstd,
                                                      at::ScalarType type, std::array<bool, 2> wanted) {
  std::pair<at::Tensor, at::Tensor> result;
  if (wanted[0]) result.first = (sums[0] * to_channels(rstd, sums.size(2))).sum(0).to(type);
  if (wanted[1]) result.second = sums[1].sum(0).to(type);
  return result;
}

at::Tensor group_sums(const at::Tensor& sums, const Optional& weight, int64_t groups) {
  const int64_t channels = sums.size(2);
  return (sums * channel_factor(weight, sums)).reshape({2, sums.size(1), groups, channels / groups}).sum(-1);
}

at::Tensor input_gradient(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                          const Optional& weight, const std::vector<at::Tensor>& parts, double total) {
  at::Tensor whole = at::zeros_like(parts[0]);
  for (const at::Tensor& part : parts) whole.add_(part);
  const at::Tensor slope = -whole[0] * rstd.pow(3) / total;
  const at::Tensor offset = -slope * mean - whole[1] * rstd / total;
  const at::Tensor factor = to_channels(rstd, x.size(1)) * channel_factor(weight, rstd);
  at::Tensor result = grad.to(wide(x)) * per_channel(factor, x);
  result.addcmul_(x.to(wide(x)), per_channel(to_channels(slope, x.size(1)), x));
  result.add_(per_channel(to_channels(offset, x.size(1)), x));
  return as(result, x);
}

bool has_loops(at::ScalarType type) {
  return type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16;
}

}  // namespace

const GroupNormSteps& aten_group_norm_steps() {
  static constexpr GroupNormSteps steps{"ops of ATen",       prepare,    moments,       normalise, channel_sums,
                                        parameter_gradients, group_sums, input_gradient};
  return steps;
}

const GroupNormSteps& group_norm_steps(const at::Tensor& x, const Optional& weight, const Optional& bias,
                                       std::string_view layer, const comm::Domain& domain) {
  const auto here = [](const at::Tensor& t) {
    return t.device().is_cpu() && t.layout() == at::kStrided && has_loops(t.scalar_type());
  };
  bool all_here = here(x);
  for (const Optional* parameter : {&weight, &bias}) {
    if (!parameter->has_value() || !(*parameter)->defined()) continue;
    TORCH_CHECK_VALUE((*parameter)->numel() == x.size(1), layer, ": expected a weight and a bias of ", x.size(1),
                      " values, one for each channel, got ", (*parameter)->sizes(), comm::where(domain));
    all_here = all_here && here(**parameter);
  }
  return all_here ? cpu_group_norm_steps() : aten_group_norm_steps();
}

}  // namespace graticule::ops

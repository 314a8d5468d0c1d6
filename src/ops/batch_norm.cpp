// Batch normalisation of a cut tensor as group normalisation of groups of one channel, whose samples share their
// statistics. For the rules of DomainTensor; not differentiable by itself.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "graticule/comm/collectives.hpp"
#include "graticule/comm/domain.hpp"
#include "graticule/halo/memory_format.hpp"
#include "ops/cut_checks.hpp"
#include "ops/group_norm_steps.hpp"

namespace graticule::ops {
namespace {

using Optional = std::optional<at::Tensor>;
using Three = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Four = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

struct Arguments {
  std::vector<int64_t> offsets;
  int64_t dim;
  std::string group, layer;
};

// Values of a channel, on so many rows.
double values_on(const at::Tensor& x, const Arguments& a, int64_t rows) {
  int64_t count = 1;
  for (int64_t d = 0; d < x.dim(); ++d) {
    if (d != 1) count *= d == a.dim ? rows : x.size(d);
  }
  return static_cast<double>(count);
}

std::vector<double> values_of_ranks(const at::Tensor& x, const Arguments& a) {
  std::vector<double> counts;
  for (size_t rank = 0; rank + 1 < a.offsets.size(); ++rank) {
    counts.push_back(values_on(x, a, a.offsets[rank + 1] - a.offsets[rank]));
  }
  return counts;
}

comm::Facts call_facts(const at::Tensor& x, const Arguments& a, const char* direction) {
  comm::Facts facts;
  facts.add(direction).add(static_cast<int64_t>(x.scalar_type())).add(a.dim).add(a.offsets);
  for (int64_t d = 0; d < x.dim(); ++d) facts.add(d == a.dim ? 0 : x.size(d));
  return facts;
}

comm::Domain checked_domain(const at::Tensor& x, const Arguments& a) {
  const comm::Domain domain = comm::Domain::from_group_name(a.group);
  TORCH_CHECK_VALUE(x.dim() >= 2 && a.dim >= 0 && a.dim < x.dim() && a.dim != 1, a.layer,
                    ": expected (N, C, ...) cut along another dimension than the channels, got ", x.dim(),
                    " dimensions, cut along ", a.dim, comm::where(domain));
  check_own_rows(x, a.dim, a.offsets, a.layer, domain);
  return domain;
}

double share(double count, double total) { return count / std::max(total, 1.0); }

// In plain numbers: a few ops of ATen cost more than all channels of a layer.
at::Tensor merged_on_cpu(const at::Tensor& moments, const std::vector<double>& counts, double total) {
  const at::Tensor dense = moments.contiguous();
  const auto parts = static_cast<int64_t>(counts.size());
  const int64_t channels = dense.size(2);
  const double* const means = dense.const_data_ptr<double>();
  const double* const deviations = means + parts * channels;
  at::Tensor result = at::zeros({2, channels}, moments.options());
  double* const mean = result.mutable_data_ptr<double>();
  double* const deviation = mean + channels;
  for (int64_t i = 0; i < parts * channels; ++i) {
    mean[i % channels] += means[i] * share(counts[i / channels], total);
  }
  for (int64_t i = 0; i < parts * channels; ++i) {
    const double apart = means[i] - mean[i % channels];
    deviation[i % channels] += deviations[i] + apart * apart * counts[i / channels];
  }
  return result;
}

// Moments of parts with so many values each, (2, parts, C), as those of all together, (2, C): Chan, Golub and LeVeque,
// "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
at::Tensor merged(const at::Tensor& moments, const std::vector<double>& counts) {
  const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
  if (moments.is_cpu()) return merged_on_cpu(moments, counts, total);
  const at::Tensor of_parts = at::tensor(counts, at::kDouble).to(moments.device()).unsqueeze(1);
  const at::Tensor mean = (moments[0] * of_parts / std::max(total, 1.0)).sum(0);
  const at::Tensor between = ((moments[0] - mean).square_() * of_parts).sum(0);
  return at::stack({mean, moments[1].sum(0).add_(between)});
}

at::Tensor over_samples(const at::Tensor& moments, double values) {
  const int64_t samples = moments.size(1);
  if (samples == 1) return moments.select(1, 0).contiguous();
  return merged(moments, std::vector<double>(samples, values));
}

at::Tensor for_each_sample(const at::Tensor& per_channel, const at::Tensor& x) {
  std::vector<int64_t> sizes = per_channel.sizes().vec();
  sizes.insert(sizes.end() - 1, x.size(0));
  return per_channel.unsqueeze(-2).expand(sizes).contiguous();
}

Four forward(const at::Tensor& x, const Optional& weight, const Optional& bias, double eps, at::IntArrayRef offsets,
             int64_t dim, c10::string_view group, c10::string_view layer) {
  const Arguments a{offsets.vec(), dim, std::string(group), std::string(layer)};
  const comm::Domain domain = checked_domain(x, a);
  const GroupNormSteps& steps = group_norm_steps(x, weight, bias, a.layer, domain);
  const at::Tensor input = steps.prepare(x, x);
  const NormTrace trace(a.layer, "forward", steps, domain.size(), !input.is_same(x), /*writes=*/true);
  const double values = x.size(0) == 0 ? 0 : values_on(x, a, x.size(dim)) / static_cast<double>(x.size(0));
  at::Tensor moments = over_samples(steps.moments(input, x.size(1)), values);
  const double total = values_on(x, a, a.offsets.back());
  if (domain.size() > 1) {
    moments = merged(at::stack(comm::all_gather(domain, moments, a.layer, call_facts(x, a, "forward")), 1),
                     values_of_ranks(x, a));
  }
  const at::Tensor rstd = (moments[1] / total).add_(eps).rsqrt_();
  // Of squares that overflow uncut makes the bias, where a group normalisation makes NaN.
  moments.select(0, 1).clamp_max_(std::numeric_limits<double>::max());
  at::Tensor y = halo::empty_with(x, x.sizes());
  if (x.numel() > 0) y = std::get<0>(steps.normalise(input, weight, bias, {for_each_sample(moments, x)}, {total}, eps));
  return {y, moments[0], rstd, moments[1]};
}

Three backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
               const Optional& weight, at::IntArrayRef offsets, int64_t dim, c10::string_view group,
               c10::string_view layer, std::array<bool, 3> wanted) {
  const Arguments a{offsets.vec(), dim, std::string(group), std::string(layer)};
  const comm::Domain domain = checked_domain(x, a);
  const GroupNormSteps& steps = group_norm_steps(x, weight, std::nullopt, a.layer, domain);
  const at::Tensor input = steps.prepare(x, x);
  const at::Tensor g = steps.prepare(grad, x);
  const NormTrace trace(a.layer, "backward", steps, domain.size(), !input.is_same(x) || !g.is_same(grad), wanted[0]);
  const at::Tensor means = for_each_sample(mean, x);
  at::Tensor sums = at::zeros({2, x.size(1)}, x.options().dtype(at::kDouble));
  if (x.numel() > 0) sums = steps.channel_sums(g, input, means).sum(1);
  if (domain.size() > 1) {
    const auto parts = comm::all_gather(domain, sums, a.layer, call_facts(x, a, "backward"));
    sums = parts[0].clone();
    for (int rank = 1; rank < domain.size(); ++rank) sums.add_(parts[rank]);
  }
  const at::ScalarType type = weight.has_value() && weight->defined() ? weight->scalar_type() : x.scalar_type();
  Three result;
  if (wanted[1]) std::get<1>(result) = (sums[0] * rstd).to(type);
  if (wanted[2]) std::get<2>(result) = sums[1].to(type).clone();
  if (!wanted[0]) return result;
  if (x.numel() == 0) {
    std::get<0>(result) = halo::empty_with(x, x.sizes());
    return result;
  }
  const at::Tensor group_sums = steps.group_sums(for_each_sample(sums, x), weight, x.size(1));
  std::get<0>(result) = steps.input_gradient(g, input, means, for_each_sample(rstd, x), weight, {group_sums},
                                             values_on(x, a, a.offsets.back()));
  return result;
}

Four forward_meta(const at::Tensor& x, const Optional&, const Optional&, double, at::IntArrayRef, int64_t,
                  c10::string_view, c10::string_view) {
  const auto per_channel = [&] { return at::empty({x.size(1)}, x.options().dtype(at::kDouble)); };
  return {halo::empty_with(x, x.sizes()), per_channel(), per_channel(), per_channel()};
}

Three backward_meta(const at::Tensor&, const at::Tensor& x, const at::Tensor&, const at::Tensor&,
                    const Optional& weight, at::IntArrayRef, int64_t, c10::string_view, c10::string_view,
                    std::array<bool, 3> wanted) {
  const auto parameter = [&] {
    const auto type = weight.has_value() && weight->defined() ? weight->scalar_type() : x.scalar_type();
    return at::empty({x.size(1)}, x.options().dtype(type));
  };
  return {wanted[0] ? halo::empty_with(x, x.sizes()) : at::Tensor(), wanted[1] ? parameter() : at::Tensor(),
          wanted[2] ? parameter() : at::Tensor()};
}

TORCH_LIBRARY_FRAGMENT(graticule, m) {
  // (y, mean, rstd, sum of squared deviations): statistics (C) in float64, the same bits on every rank.
  m.def(
      "batch_norm_forward(Tensor x, Tensor? weight, Tensor? bias, float eps, int[] offsets, int dim, str group, "
      "str layer) -> (Tensor, Tensor, Tensor, Tensor)");
  // Gradients of x, on this rank's rows, and whole ones of weight and bias.
  m.def(
      "batch_norm_backward(Tensor grad, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, int[] offsets, int dim, "
      "str group, str layer, bool[3] wanted) -> (Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(graticule, CompositeExplicitAutograd, m) {
  m.impl("batch_norm_forward", forward);
  m.impl("batch_norm_backward", backward);
}
TORCH_LIBRARY_IMPL(graticule, Meta, m) {
  m.impl("batch_norm_forward", forward_meta);
  m.impl("batch_norm_backward", backward_meta);
}

}  // namespace
}  // namespace graticule::ops

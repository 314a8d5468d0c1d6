#include "graticule/nn/interpolate.hpp"

#include <ATen/ATen.h>
#include <torch/nn/functional/upsampling.h>

#include <utility>

#include "graticule/ops/interpolate.hpp"

namespace graticule {
namespace {

// Rows that the mode's kernel needs beyond the cut.
int64_t halo_of(const std::string& mode) {
  if (mode == "bicubic") return 2;
  return mode == "linear" || mode == "bilinear" || mode == "trilinear" ? 1 : 0;
}

template <typename T>
std::vector<T> one_each(std::vector<T> values, int64_t dims) {
  if (values.size() == 1) values.resize(static_cast<size_t>(dims), values[0]);
  return values;
}

torch::nn::functional::InterpolateFuncOptions::mode_t mode_of(const std::string& mode) {
  if (mode == "nearest") return torch::kNearest;
  if (mode == "nearest-exact") return torch::kNearestExact;
  if (mode == "linear") return torch::kLinear;
  if (mode == "bilinear") return torch::kBilinear;
  if (mode == "bicubic") return torch::kBicubic;
  if (mode == "trilinear") return torch::kTrilinear;
  TORCH_CHECK_VALUE(mode == "area",
                    "DomainParallelInterpolate: expected mode nearest, nearest-exact, linear, bilinear, bicubic, "
                    "trilinear or area, got ",
                    mode);
  return torch::kArea;
}

at::Tensor plain(const at::Tensor& x, const InterpolateOptions& o) {
  torch::nn::functional::InterpolateFuncOptions options;
  if (!o.size.empty()) options.size(one_each(o.size, x.dim() - 2));
  if (!o.scale_factor.empty()) options.scale_factor(one_each(o.scale_factor, x.dim() - 2));
  options.mode(mode_of(o.mode)).antialias(o.antialias);
  if (o.align_corners.has_value()) options.align_corners(o.align_corners);
  // torch's defaults, said aloud: it warns of each that is left to it.
  if (o.mode != "nearest" && o.mode != "area") options.align_corners(o.align_corners.value_or(false));
  if (!o.scale_factor.empty()) options.recompute_scale_factor(o.recompute_scale_factor.value_or(false));
  return torch::nn::functional::interpolate(x, options);
}

std::string text_of(const InterpolateOptions& o) {
  const auto flag = [](std::optional<bool> value) { return !value.has_value() ? "unset" : *value ? "true" : "false"; };
  return c10::str("mode ", o.mode, ", size ", c10::IntArrayRef(o.size), ", scale_factor ",
                  c10::ArrayRef<double>(o.scale_factor), ", align_corners ", flag(o.align_corners),
                  ", recompute_scale_factor ", flag(o.recompute_scale_factor), ", antialias ", o.antialias);
}

}  // namespace

DomainParallelInterpolateImpl::DomainParallelInterpolateImpl(InterpolateOptions given, int64_t shard_dim,
                                                             std::optional<comm::Domain> domain)
    : CutLayer("DomainParallelInterpolate", shard_dim, domain),
      options(std::move(given)),
      size(options.size),
      mode(options.mode),
      halo_exchange(halo_of(options.mode), shard_dim, domain) {
  mode_of(mode);
}

DomainParallelInterpolateImpl::DomainParallelInterpolateImpl(std::vector<int64_t> whole_size, std::string name,
                                                             int64_t shard_dim, std::optional<comm::Domain> domain)
    : DomainParallelInterpolateImpl(
          InterpolateOptions{std::move(whole_size), {}, std::move(name), std::nullopt, std::nullopt, false}, shard_dim,
          std::move(domain)) {}

at::Tensor DomainParallelInterpolateImpl::forward(const at::Tensor& x) {
  const auto domain = active_domain();
  if (!domain.has_value()) return plain(x, options);
  return on_cut(
      x, x.dim() - 2, *domain, [&] { return text_of(options); },
      [&](const at::Tensor& input, const ops::Cut& cut) {
        const int64_t dims = input.dim() - 2;
        return ops::interpolate(input,
                                {one_each(options.size, dims), one_each(options.scale_factor, dims), options.mode,
                                 options.align_corners, options.recompute_scale_factor, options.antialias},
                                cut);
      });
}

}  // namespace graticule

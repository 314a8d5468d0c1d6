#include "emulator.hpp"

#include <torch/torch.h>

#include <cmath>
#include <numbers>
#include <utility>

#include "graticule/rows/partition.hpp"

namespace graticule::apps {
namespace {

using OptionalDomain = std::optional<comm::Domain>;

constexpr int64_t latitude_features = 2;

// Size of the next coarser level.
int64_t halved(int64_t size) { return (size + 1) / 2; }

int64_t recovered_channels(const EmulatorOptions& o) { return o.channels / 2; }

int64_t full_grid_channels(const EmulatorOptions& o) {
  return recovered_channels(o) * o.output_times + o.input_channels * o.input_times + latitude_features;
}

// Closes the circle of longitudes: one column more on either side. Local, since no longitude is cut.
at::Tensor close_longitudes(const at::Tensor& x) {
  return at::cat({x.narrow(-1, x.size(-1) - 1, 1), x, x.narrow(-1, 0, 1)}, -1);
}

DomainParallelGroupNorm group_norm(int64_t channels, const OptionalDomain& domain) {
  return DomainParallelGroupNorm(torch::nn::GroupNorm(channels / 8, channels), -2, domain);
}

DomainParallelPeriodicConv2d periodic_conv(int64_t in, int64_t out, const OptionalDomain& domain) {
  return DomainParallelPeriodicConv2d(PeriodicConv2d(in, out, 3), -2, domain);
}

// All times of 2 x 2 patches, and the rows and columns around them, become one vector.
DomainParallelConv3d patch_embedding(const EmulatorOptions& o, const OptionalDomain& domain) {
  const auto options = torch::nn::Conv3dOptions(o.input_channels + latitude_features, o.channels, {o.input_times, 3, 3})
                           .stride({1, 2, 2})
                           .padding({0, 1, 0});
  return DomainParallelConv3d(torch::nn::Conv3d(options), 3, domain);
}

DomainParallelConv2d downsampling(int64_t in, int64_t out, const OptionalDomain& domain) {
  const auto options = torch::nn::Conv2dOptions(in, out, 3).stride(2).padding({1, 0});
  return DomainParallelConv2d(torch::nn::Conv2d(options), -2, domain);
}

// The padding of columns also takes away what the columns added by close_longitudes put outside of the grid.
DomainParallelConvTranspose2d upsampling(int64_t in, int64_t out, const OptionalDomain& domain) {
  const auto options = torch::nn::ConvTranspose2dOptions(in, out, 3).stride(2).padding({1, 3});
  return DomainParallelConvTranspose2d(torch::nn::ConvTranspose2d(options), -2, domain);
}

DomainParallelConvTranspose3d patch_recovery(const EmulatorOptions& o, const OptionalDomain& domain) {
  const auto options = torch::nn::ConvTranspose3dOptions(o.channels, recovered_channels(o), {o.output_times, 4, 4})
                           .stride({1, 2, 2})
                           .padding({0, 1, 3});
  return DomainParallelConvTranspose3d(torch::nn::ConvTranspose3d(options), 3, domain);
}

DomainParallelInterpolate interpolation(const EmulatorOptions& o, const OptionalDomain& domain) {
  InterpolateOptions options;
  options.size = {o.rows, o.columns};
  options.align_corners = false;
  return DomainParallelInterpolate(options, -2, domain);
}

at::Tensor sines_and_cosines(const std::vector<double>& latitudes, const OptionalDomain& domain) {
  const at::Tensor radians = at::tensor(latitudes, at::kDouble) * (std::numbers::pi / 180);
  const at::Tensor whole = at::stack({radians.sin(), radians.cos()}).unsqueeze(-1);
  if (!domain.has_value()) return whole;
  const auto own = rows::Partition::balanced(whole.size(1), domain->size()).interval(domain->rank());
  return whole.narrow(1, own.begin, own.size());
}

EmulatorOptions checked(const EmulatorOptions& o, const std::vector<double>& latitudes) {
  TORCH_CHECK_VALUE(o.rows >= 9 && o.columns >= 8, "the emulator needs a grid of 9 rows and 8 columns at least, got ",
                    o.rows, " x ", o.columns);
  TORCH_CHECK_VALUE(o.channels >= 8 && o.channels % 8 == 0, "the emulator's channels must be a multiple of 8, got ",
                    o.channels);
  TORCH_CHECK_VALUE(static_cast<int64_t>(latitudes.size()) == o.rows, "the emulator got ", latitudes.size(),
                    " latitudes for ", o.rows, " rows");
  return o;
}

}  // namespace

ResidualBlockImpl::ResidualBlockImpl(int64_t channels, const OptionalDomain& domain)
    : first_norm(register_module("first_norm", group_norm(channels, domain))),
      second_norm(register_module("second_norm", group_norm(channels, domain))),
      first_conv(register_module("first_conv", periodic_conv(channels, channels, domain))),
      second_conv(register_module("second_conv", periodic_conv(channels, channels, domain))) {}

at::Tensor ResidualBlockImpl::forward(const at::Tensor& x) {
  const at::Tensor inner = first_conv->forward(at::silu(first_norm->forward(x)));
  return x + second_conv->forward(at::silu(second_norm->forward(inner)));
}

EmulatorImpl::EmulatorImpl(const EmulatorOptions& options, const std::vector<double>& latitudes,
                           const OptionalDomain& domain)
    : options_(checked(options, latitudes)),
      latitude_channels_(sines_and_cosines(latitudes, domain)),
      embed_(register_module("embed", patch_embedding(options, domain))),
      fine_block_(register_module("fine_block", ResidualBlock(options.channels, domain))),
      to_middle_(register_module("to_middle", downsampling(options.channels, 2 * options.channels, domain))),
      middle_block_(register_module("middle_block", ResidualBlock(2 * options.channels, domain))),
      to_coarse_(register_module("to_coarse", downsampling(2 * options.channels, 4 * options.channels, domain))),
      coarse_block_(register_module("coarse_block", ResidualBlock(4 * options.channels, domain))),
      from_coarse_(register_module("from_coarse", upsampling(4 * options.channels, 2 * options.channels, domain))),
      second_middle_block_(register_module("second_middle_block", ResidualBlock(2 * options.channels, domain))),
      from_middle_(register_module("from_middle", upsampling(2 * options.channels, options.channels, domain))),
      second_fine_block_(register_module("second_fine_block", ResidualBlock(options.channels, domain))),
      last_norm_(register_module("last_norm", group_norm(options.channels, domain))),
      recover_(register_module("recover", patch_recovery(options, domain))),
      to_grid_(register_module("to_grid", interpolation(options, domain))),
      refine_(register_module("refine", periodic_conv(full_grid_channels(options), options.channels, domain))),
      project_(register_module(
          "project", periodic_conv(options.channels, options.output_channels * options.output_times, domain))) {}

at::Tensor EmulatorImpl::with_latitudes(const at::Tensor& x) const {
  const at::Tensor features = latitude_channels_.to(x.options()).unsqueeze(1);
  return at::cat({x, features.expand({x.size(0), latitude_features, x.size(2), x.size(3), x.size(4)})}, 1);
}

at::Tensor EmulatorImpl::on_full_grid(const at::Tensor& x) const {
  const at::Tensor features = latitude_channels_.to(x.options());
  return at::cat({x.flatten(1, 2), features.expand({x.size(0), latitude_features, x.size(3), x.size(4)})}, 1);
}

at::Tensor EmulatorImpl::forward(const at::Tensor& x) {
  const int64_t fine_rows = halved(options_.rows), fine_columns = halved(options_.columns);
  const int64_t middle_rows = halved(fine_rows), middle_columns = halved(fine_columns);

  const at::Tensor embedded = embed_->forward(close_longitudes(with_latitudes(x))).squeeze(2);
  const at::Tensor fine = fine_block_->forward(embedded);
  const at::Tensor middle = middle_block_->forward(to_middle_->forward(close_longitudes(fine)));
  const at::Tensor coarse = coarse_block_->forward(to_coarse_->forward(close_longitudes(middle)));

  const at::Tensor up = from_coarse_->forward(close_longitudes(coarse), {{middle_rows, middle_columns}});
  const at::Tensor middle_again = second_middle_block_->forward(middle + up);
  const at::Tensor up_again = from_middle_->forward(close_longitudes(middle_again), {{fine_rows, fine_columns}});
  const at::Tensor fine_again = second_fine_block_->forward(fine + up_again);

  const at::Tensor features = close_longitudes(at::silu(last_norm_->forward(fine_again))).unsqueeze(2);
  const at::Tensor recovered = to_grid_->forward(recover_->forward(features).flatten(1, 2));
  const at::Tensor refined = at::silu(refine_->forward(at::cat({recovered, on_full_grid(x)}, 1)));
  return project_->forward(refined).unflatten(1, {options_.output_channels, options_.output_times});
}

void EmulatorImpl::initialise(uint64_t seed) {
  const at::NoGradGuard no_grad;
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  for (auto& item : named_parameters()) {
    at::Tensor& parameter = item.value();
    if (parameter.dim() > 1) {
      const auto fan_in = static_cast<double>(parameter[0].numel());
      const at::Tensor drawn = at::empty(parameter.sizes(), at::kDouble).uniform_(-1, 1, generator);
      parameter.copy_(drawn / std::sqrt(fan_in));
    } else {
      parameter.fill_(item.key().ends_with("norm.weight") ? 1 : 0);
    }
  }
}

}  // namespace graticule::apps

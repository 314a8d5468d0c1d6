// The network that learns to forecast: a U-Net on the globe, uncut or cut by latitude.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "graticule/comm/domain.hpp"
#include "graticule/nn/conv.hpp"
#include "graticule/nn/group_norm.hpp"
#include "graticule/nn/interpolate.hpp"
#include "graticule/nn/periodic_conv.hpp"

namespace graticule::apps {

struct EmulatorOptions {
  int64_t input_channels = 3;
  int64_t input_times = 2;
  int64_t output_channels = 3;
  int64_t output_times = 1;
  int64_t rows = 61;      ///< of the whole grid
  int64_t columns = 120;  ///< longitudes, at least 8
  int64_t channels = 32;  ///< on the finest of the three levels; doubled on each of the others. A multiple of 8.

  friend bool operator==(const EmulatorOptions&, const EmulatorOptions&) = default;
};

/// Two convolutions on the globe, added to their input.
class ResidualBlockImpl : public torch::nn::Module {
 public:
  ResidualBlockImpl(int64_t channels, const std::optional<comm::Domain>& domain);
  at::Tensor forward(const at::Tensor& x);

  DomainParallelGroupNorm first_norm, second_norm;
  DomainParallelPeriodicConv2d first_conv, second_conv;
};
TORCH_MODULE(ResidualBlock);

/// Takes (B, C_in, T, rows, W), normalised, this rank's rows, and gives (B, C_out, F, rows, W). Parameters are the same
/// on any number of ranks, by name and shape. Without a domain it is the same network uncut.
class EmulatorImpl : public torch::nn::Module {
 public:
  /// `latitudes` in degrees, one a row of the whole grid, cut in balance over `domain`. Throws c10::ValueError where
  /// the grid is too small (9 rows, 8 columns) or `channels` is no multiple of 8.
  EmulatorImpl(const EmulatorOptions& options, const std::vector<double>& latitudes,
               const std::optional<comm::Domain>& domain);
  at::Tensor forward(const at::Tensor& x);

  /// Draws every parameter anew from a generator of its own: the same values on every rank and in every precision.
  void initialise(uint64_t seed);

  [[nodiscard]] const EmulatorOptions& options() const { return options_; }

 private:
  [[nodiscard]] at::Tensor with_latitudes(const at::Tensor& x) const;
  [[nodiscard]] at::Tensor on_full_grid(const at::Tensor& x) const;

  EmulatorOptions options_;
  at::Tensor latitude_channels_;  // (2, rows, 1): sine and cosine; not part of the state, since it is cut

  DomainParallelConv3d embed_;
  ResidualBlock fine_block_;
  DomainParallelConv2d to_middle_;
  ResidualBlock middle_block_;
  DomainParallelConv2d to_coarse_;
  ResidualBlock coarse_block_;
  DomainParallelConvTranspose2d from_coarse_;
  ResidualBlock second_middle_block_;
  DomainParallelConvTranspose2d from_middle_;
  ResidualBlock second_fine_block_;
  DomainParallelGroupNorm last_norm_;
  DomainParallelConvTranspose3d recover_;
  DomainParallelInterpolate to_grid_;
  DomainParallelPeriodicConv2d refine_;
  DomainParallelPeriodicConv2d project_;
};
TORCH_MODULE(Emulator);

}  // namespace graticule::apps

#include "polar_filter.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace graticule::apps {
namespace {

double factor(double latitude, int64_t wavenumber, int64_t columns) {
  if (wavenumber == 0) return 1;
  const double angle = std::numbers::pi * static_cast<double>(wavenumber) / static_cast<double>(columns);
  return std::clamp(std::cos(latitude) / (std::cos(std::numbers::pi / 3) * std::sin(angle)), 0.0, 1.0);
}

at::Tensor all_factors(const std::vector<std::vector<double>>& latitudes, int64_t columns, int power) {
  const auto fields = static_cast<int64_t>(latitudes.size());
  const auto rows = static_cast<int64_t>(latitudes.at(0).size());
  const int64_t wavenumbers = columns / 2 + 1;
  at::Tensor result = at::empty({fields, 1, rows, wavenumbers}, at::kDouble);
  double* out = result.mutable_data_ptr<double>();
  for (const auto& of_field : latitudes) {
    for (const double latitude : of_field) {
      for (int64_t m = 0; m < wavenumbers; ++m) *out++ = std::pow(factor(latitude, m, columns), power);
    }
  }
  return result;
}

}  // namespace

PolarFilter::PolarFilter(const std::vector<std::vector<double>>& latitudes, int64_t columns, int power)
    : columns_(columns) {
  const at::Tensor factors = all_factors(latitudes, columns, power);
  const at::Tensor damps = (factors < 1).any(3).any(0).view({-1}).contiguous();
  const bool* damped = damps.const_data_ptr<bool>();
  for (int64_t row = 0; row < damps.numel();) {
    const int64_t first = row;
    while (row < damps.numel() && damped[row] == damped[first]) ++row;
    if (damped[first]) bands_.push_back({first, row - first, factors.narrow(2, first, row - first).contiguous()});
  }
}

void PolarFilter::apply_(at::Tensor& fields) const {
  for (const Band& band : bands_) {
    at::Tensor rows = fields.narrow(2, band.first_row, band.rows);
    rows.copy_(at::fft_irfft(at::fft_rfft(rows) * band.factors, columns_));
  }
}

}  // namespace graticule::apps

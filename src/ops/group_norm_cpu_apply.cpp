#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

#include "graticule/halo/memory_format.hpp"
#include "ops/group_norm_cpu.hpp"
#include "ops/group_norm_layout.hpp"
#include "ops/group_norm_loops.hpp"
#include "ops/group_norm_staging.hpp"
#include "ops/group_norm_values.hpp"
#include "ops/parallel_tasks.hpp"
#include "ops/vector_lanes.hpp"

namespace graticule::ops {
namespace {

using Optional = std::optional<at::Tensor>;

// Calls work(first value, values, plane) for every block of every plane, where `work` is what make(most values)
// returned on that thread: last chunks first, for those the pass before this one left in the cache.
template <class Make>
void each_line(const Shape& shape, const Make& make) {
  const int64_t chunks = rows::ceil_div(shape.pixels, line_chunk);
  const int64_t tasks = shape.samples * shape.channels * chunks;
  for_tasks(tasks, std::min(shape.pixels, line_chunk), [&](int64_t begin, int64_t end) {
    auto work = make(line_block);
    for (int64_t task = end - 1; task >= begin; --task) {
      const int64_t plane = task / chunks;
      const int64_t first = task % chunks * line_chunk;
      const int64_t last = std::min(shape.pixels, first + line_chunk);
      for (int64_t i = first; i < last; i += line_block) {
        work(plane * shape.pixels + i, std::min(line_block, last - i), plane);
      }
    }
    finish_streaming();
  });
}

// Calls work(first value, rows, width, coefficients of the columns) in the same way.
template <class T, int K, class Make>
void each_sheet(const Shape& shape, const Coefficients<T, K>& coefficients, const Make& make) {
  const Sheet sheet(shape);
  const int64_t block = std::max<int64_t>(1, line_block / std::max<int64_t>(1, sheet.width));
  const int64_t sample_size = shape.channels * shape.pixels;
  for_tasks(shape.samples * sheet.chunks, std::min(sheet_chunk, sample_size), [&](int64_t begin, int64_t end) {
    auto work = make(block * sheet.width);
    Coefficients<T, K> columns;
    for (auto& values : columns) values.resize(sheet.width);
    int64_t spread_sample = -1;
    for (int64_t task = end - 1; task >= begin; --task) {
      const int64_t sample = task / sheet.chunks;
      const int64_t chunk = task % sheet.chunks;
      if (sample != spread_sample) spread<T, K>(coefficients, sample, shape, sheet, columns);
      spread_sample = sample;
      for (int64_t row = sheet.begin(chunk); row < sheet.end(chunk); row += block) {
        work(sample * sample_size + row * sheet.width, std::min(block, sheet.end(chunk) - row), sheet.width, columns);
      }
      if (!sheet.has_rest(chunk)) continue;
      work(sample * sample_size + sheet.rows * sheet.width, int64_t{1}, sheet.rest * shape.channels, columns);
    }
    finish_streaming();
  });
}

// Whether a result is too large to stay in the caches: well above the second level and one core's share of the third.
// It is written past them then, where the loops write it themselves
// (docs/decisions/0016-large-results-past-the-caches.md).
template <class S>
bool past_caches(const Shape& shape) {
  constexpr int64_t too_large = int64_t{8} << 20;
  const int64_t bytes = shape.samples * shape.channels * shape.pixels * static_cast<int64_t>(sizeof(S));
  return Staging<S>::in_place && bytes >= too_large;
}

at::Tensor result_like(const at::Tensor& x) { return halo::empty_with(x, x.sizes()); }

// y = (x - centre) * scale + shift; coefficients in this order.
template <class S>
void affine(const S* x, S* y, const Shape& shape, bool sheets, const Coefficients<at::opmath_type<S>, 3>& of) {
  using T = at::opmath_type<S>;
  const auto& loops = group_norm_loops<T>();
  const bool past = past_caches<S>(shape);
  if (sheets) {
    each_sheet<T, 3>(shape, of, [&](int64_t most) {
      return [&, in = Staging<S>(most), out = Staging<S>(most)](int64_t first, int64_t rows, int64_t width,
                                                                const Coefficients<T, 3>& columns) mutable {
        loops.sheet_affine(in.read(x + first, rows * width), out.target(y + first), rows, width, columns[0].data(),
                           columns[1].data(), columns[2].data(), past);
        out.finish(y + first, rows * width);
      };
    });
    return;
  }
  each_line(shape, [&](int64_t most) {
    return [&, in = Staging<S>(most), out = Staging<S>(most)](int64_t first, int64_t n, int64_t plane) mutable {
      loops.line_affine(in.read(x + first, n), out.target(y + first), n, of[0][plane], of[1][plane], of[2][plane],
                        past);
      out.finish(y + first, n);
    };
  });
}

// y = g * factor + (x - centre) * slope + offset; coefficients in this order.
template <class S>
void gradient(const S* g, const S* x, S* y, const Shape& shape, bool sheets,
              const Coefficients<at::opmath_type<S>, 4>& of) {
  using T = at::opmath_type<S>;
  const auto& loops = group_norm_loops<T>();
  const bool past = past_caches<S>(shape);
  if (sheets) {
    each_sheet<T, 4>(shape, of, [&](int64_t most) {
      return [&, grads = Staging<S>(most), in = Staging<S>(most), out = Staging<S>(most)](
                 int64_t first, int64_t rows, int64_t width, const Coefficients<T, 4>& columns) mutable {
        loops.sheet_gradient(grads.read(g + first, rows * width), in.read(x + first, rows * width),
                             out.target(y + first), rows, width, columns[0].data(), columns[1].data(),
                             columns[2].data(), columns[3].data(), past);
        out.finish(y + first, rows * width);
      };
    });
    return;
  }
  each_line(shape, [&](int64_t most) {
    return [&, grads = Staging<S>(most), in = Staging<S>(most), out = Staging<S>(most)](int64_t first, int64_t n,
                                                                                        int64_t plane) mutable {
      loops.line_gradient(grads.read(g + first, n), in.read(x + first, n), out.target(y + first), n, of[0][plane],
                          of[1][plane], of[2][plane], of[3][plane], past);
      out.finish(y + first, n);
    };
  });
}

// The statistics of a group of the whole tensor: variance and mean of the ranks' moments, in rank order.
struct Whole {
  double mean, variance;
};

Whole combine(const std::vector<const double*>& parts, const std::vector<double>& counts, double total, int64_t group,
              int64_t groups) {
  Whole whole{0, 0};
  for (size_t rank = 0; rank < parts.size(); ++rank) whole.mean += parts[rank][group] * (counts[rank] / total);
  for (size_t rank = 0; rank < parts.size(); ++rank) {
    if (counts[rank] == 0) continue;
    const double distance = parts[rank][group] - whole.mean;
    whole.variance += parts[rank][groups + group] + counts[rank] * distance * distance;
  }
  whole.variance /= total;
  return whole;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> cpu_normalise(const at::Tensor& x, const Optional& weight,
                                                             const Optional& bias,
                                                             const std::vector<at::Tensor>& moments,
                                                             const std::vector<double>& counts, double eps) {
  const Parts parts(moments);
  const Shape shape = shape_of(x, moments[0].size(2));
  const int64_t groups = shape.samples * shape.groups;
  double total = 0;
  for (const double count : counts) total += count;
  at::Tensor mean = at::empty({shape.samples, shape.groups}, x.options().dtype(at::kDouble));
  at::Tensor rstd = at::empty(mean.sizes(), mean.options());
  auto* means = mean.mutable_data_ptr<double>();
  auto* rstds = rstd.mutable_data_ptr<double>();
  for (int64_t group = 0; group < groups; ++group) {
    const Whole whole = combine(parts.values, counts, total, group, groups);
    means[group] = whole.mean;
    // As uncut: squares that overflow leave nothing to scale by.
    rstds[group] = std::isinf(whole.variance) ? std::nan("") : 1 / std::sqrt(whole.variance + eps);
  }
  at::Tensor y = result_like(x);
  if (x.numel() == 0) return {y, mean, rstd};

  const std::vector<double> factors = values_of(weight, shape.channels, 1);
  const std::vector<double> terms = values_of(bias, shape.channels, 0);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "group_norm", [&] {
    using T = at::opmath_type<scalar_t>;
    Coefficients<T, 3> coefficients;
    for (auto& values : coefficients) values.resize(shape.samples * shape.channels);
    for (int64_t i = 0; i < shape.samples * shape.channels; ++i) {
      const int64_t group = i / shape.group_channels();
      const int64_t channel = i % shape.channels;
      const double scale = rstds[group] * factors[channel];
      const T centre = static_cast<T>(means[group]);
      coefficients[0][i] = centre;
      coefficients[1][i] = static_cast<T>(scale);
      coefficients[2][i] = static_cast<T>(terms[channel] - (means[group] - static_cast<double>(centre)) * scale);
    }
    affine(x.const_data_ptr<scalar_t>(), y.mutable_data_ptr<scalar_t>(), shape, channels_innermost(x), coefficients);
  });
  return {y, mean, rstd};
}

at::Tensor cpu_input_gradient(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean,
                              const at::Tensor& rstd, const Optional& weight, const std::vector<at::Tensor>& group_sums,
                              double total) {
  at::Tensor result = result_like(x);
  if (x.numel() == 0) return result;
  const Shape shape = shape_of(x, mean.size(1));
  const int64_t groups = shape.samples * shape.groups;
  const Parts parts(group_sums);
  const Parts statistics({mean, rstd});
  std::vector<double> products(groups, 0.0);
  std::vector<double> sums(groups, 0.0);
  for (const double* part : parts.values) {
    for (int64_t group = 0; group < groups; ++group) {
      products[group] += part[group];
      sums[group] += part[groups + group];
    }
  }
  const std::vector<double> factors = values_of(weight, shape.channels, 1);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "group_norm", [&] {
    using T = at::opmath_type<scalar_t>;
    Coefficients<T, 4> coefficients;
    for (auto& values : coefficients) values.resize(shape.samples * shape.channels);
    for (int64_t i = 0; i < shape.samples * shape.channels; ++i) {
      const int64_t group = i / shape.group_channels();
      const double own_mean = statistics.values[0][group];
      const double own_rstd = statistics.values[1][group];
      const double slope = -products[group] * own_rstd * own_rstd * own_rstd / total;
      const T centre = static_cast<T>(own_mean);
      coefficients[0][i] = static_cast<T>(own_rstd * factors[i % shape.channels]);
      coefficients[1][i] = centre;
      coefficients[2][i] = static_cast<T>(slope);
      coefficients[3][i] =
          static_cast<T>(-slope * (own_mean - static_cast<double>(centre)) - sums[group] * own_rstd / total);
    }
    gradient(grad.const_data_ptr<scalar_t>(), x.const_data_ptr<scalar_t>(), result.mutable_data_ptr<scalar_t>(), shape,
             channels_innermost(x), coefficients);
  });
  return result;
}

}  // namespace graticule::ops

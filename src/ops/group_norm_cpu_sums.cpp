// Sums of the backward pass: of each sample and channel sum(g * (x - centre)), then of each sum(g).
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>

#include "ops/group_norm_cpu.hpp"
#include "ops/group_norm_layout.hpp"
#include "ops/group_norm_loops.hpp"
#include "ops/group_norm_staging.hpp"
#include "ops/parallel_tasks.hpp"

namespace graticule::ops {
namespace {

template <class S, class T>
void line_products(const S* g, const S* x, const Shape& shape, const std::vector<T>& centres, double* sums) {
  const auto& loops = group_norm_loops<T>();
  const int64_t planes = shape.samples * shape.channels;
  const int64_t chunks = rows::ceil_div(shape.pixels, line_chunk);
  std::vector<std::array<double, 2>> parts(planes * chunks, {0.0, 0.0});
  for_tasks(planes * chunks, std::min(shape.pixels, line_chunk), [&](int64_t begin, int64_t end) {
    Staging<S> grads(line_block);
    Staging<S> in(line_block);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t plane = task / chunks;
      const int64_t first = task % chunks * line_chunk;
      const int64_t last = std::min(shape.pixels, first + line_chunk);
      for (int64_t i = first; i < last; i += line_block) {
        const int64_t n = std::min(line_block, last - i);
        const int64_t at = plane * shape.pixels + i;
        loops.line_products(grads.read(g + at, n), in.read(x + at, n), n, centres[plane], parts[task].data());
      }
    }
  });
  for (int64_t task = 0; task < planes * chunks; ++task) {
    sums[task / chunks] += parts[task][0];
    sums[planes + task / chunks] += parts[task][1];
  }
}

// What the tasks of one thread work with.
template <class S>
struct SheetProducts {
  using T = at::opmath_type<S>;
  SheetProducts(const Shape& the_shape, const Sheet& the_sheet)
      : shape(the_shape),
        sheet(the_sheet),
        grads(Staging<S>::block_rows * sheet.width),
        in(Staging<S>::block_rows * sheet.width),
        scratch(2 * sheet.width),
        products(sheet.width),
        sums(sheet.width) {
    centre[0].resize(sheet.width);
  }

  void add_columns(int64_t columns, double* result) {
    for (int64_t first = 0; first < columns; first += shape.channels) {
      for (int64_t i = 0; i < shape.channels; ++i) {
        result[i] += products[first + i];
        result[shape.channels + i] += sums[first + i];
      }
    }
  }

  void take(const S* g, const S* x, int64_t rows, int64_t width) {
    group_norm_loops<T>().sheet_products(grads.read(g, rows * width), in.read(x, rows * width), rows, width,
                                         centre[0].data(), scratch.data(), products.data(), sums.data());
  }

  void forget() {
    std::fill(products.begin(), products.end(), 0.0);
    std::fill(sums.begin(), sums.end(), 0.0);
  }

  // g, x: the sample. result: 2 * channels sums.
  void chunk(const S* g, const S* x, int64_t chunk, double* result) {
    forget();
    const int64_t end = sheet.end(chunk);
    for (int64_t row = sheet.begin(chunk); row < end; row += Staging<S>::block_rows) {
      take(g + row * sheet.width, x + row * sheet.width, std::min(Staging<S>::block_rows, end - row), sheet.width);
    }
    add_columns(sheet.width, result);
    if (!sheet.has_rest(chunk)) return;
    forget();
    const int64_t first = sheet.rows * sheet.width;
    take(g + first, x + first, 1, sheet.rest * shape.channels);
    add_columns(sheet.rest * shape.channels, result);
  }

  const Shape& shape;
  const Sheet& sheet;
  Staging<S> grads, in;
  std::vector<T> scratch;
  Coefficients<T, 1> centre;
  std::vector<double> products, sums;
};

template <class S, class T>
void sheet_products(const S* g, const S* x, const Shape& shape, const Coefficients<T, 1>& centres, double* sums) {
  const Sheet sheet(shape);
  const int64_t tasks = shape.samples * sheet.chunks;
  const int64_t sample_size = shape.channels * shape.pixels;
  std::vector<double> parts(tasks * 2 * shape.channels);
  for_tasks(tasks, std::min(sheet_chunk, sample_size), [&](int64_t begin, int64_t end) {
    SheetProducts<S> work(shape, sheet);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t sample = task / sheet.chunks;
      spread<T, 1>(centres, sample, shape, sheet, work.centre);
      work.chunk(g + sample * sample_size, x + sample * sample_size, task % sheet.chunks,
                 &parts[task * 2 * shape.channels]);
    }
  });
  for (int64_t task = 0; task < tasks; ++task) {
    const double* part = &parts[task * 2 * shape.channels];
    double* own = sums + task / sheet.chunks * shape.channels;
    for (int64_t i = 0; i < shape.channels; ++i) {
      own[i] += part[i];
      own[shape.samples * shape.channels + i] += part[shape.channels + i];
    }
  }
}

}  // namespace

at::Tensor cpu_channel_sums(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean) {
  const Shape shape = shape_of(x, mean.size(1));
  const int64_t planes = shape.samples * shape.channels;
  at::Tensor result = at::empty({2, shape.samples, shape.channels}, mean.options());
  auto* sums = result.mutable_data_ptr<double>();
  std::fill_n(sums, 2 * planes, 0.0);
  if (x.numel() == 0) return result;
  const at::Tensor dense = mean.contiguous();
  const auto* means = dense.const_data_ptr<double>();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "group_norm", [&] {
    using T = at::opmath_type<scalar_t>;
    Coefficients<T, 1> centres;
    centres[0].resize(planes);
    for (int64_t i = 0; i < planes; ++i) centres[0][i] = static_cast<T>(means[i / shape.group_channels()]);
    const auto* g = grad.const_data_ptr<scalar_t>();
    const auto* values = x.const_data_ptr<scalar_t>();
    if (channels_innermost(x)) {
      sheet_products(g, values, shape, centres, sums);
    } else {
      line_products(g, values, shape, centres[0], sums);
    }
    for (int64_t i = 0; i < planes; ++i) {
      sums[i] -= (means[i / shape.group_channels()] - static_cast<double>(centres[0][i])) * sums[planes + i];
    }
  });
  return result;
}

}  // namespace graticule::ops

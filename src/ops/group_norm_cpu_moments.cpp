#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "ops/group_norm_cpu.hpp"
#include "ops/group_norm_layout.hpp"
#include "ops/group_norm_loops.hpp"
#include "ops/group_norm_staging.hpp"
#include "ops/parallel_tasks.hpp"

namespace graticule::ops {
namespace {

template <class S>
Moments chunk_moments(const S* x, int64_t count, Staging<S>& staging) {
  using T = at::opmath_type<S>;
  const auto& loops = group_norm_loops<T>();
  Moments whole;
  T centre{};
  for (int64_t begin = 0; begin < count; begin += line_block) {
    const int64_t n = std::min(line_block, count - begin);
    const T* values = staging.read(x + begin, n);
    if (begin == 0) centre = static_cast<T>(loops.line_moments(values, n, values[0]).mean);
    const Moments block = loops.line_moments(values, n, centre);
    whole.add(block);
    centre = static_cast<T>(block.mean);
  }
  return whole;
}

template <class S>
std::vector<Moments> line_moments(const S* x, const Shape& shape) {
  const int64_t length = shape.group_channels() * shape.pixels;
  const int64_t chunks = rows::ceil_div(length, line_chunk);
  const int64_t groups = shape.samples * shape.groups;
  std::vector<Moments> parts(groups * chunks);
  for_tasks(groups * chunks, std::min(length, line_chunk), [&](int64_t begin, int64_t end) {
    Staging<S> staging(line_block);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % chunks * line_chunk;
      parts[task] = chunk_moments(x + task / chunks * length + first, std::min(line_chunk, length - first), staging);
    }
  });
  std::vector<Moments> whole(groups);
  for (int64_t task = 0; task < groups * chunks; ++task) whole[task / chunks].add(parts[task]);
  return whole;
}

// The moments of a sheet's groups from those of its columns, each of `count` values.
void add_columns(const double* mean, const double* deviations, double count, int64_t pixels, const Shape& shape,
                 Moments* groups) {
  const int64_t width = shape.group_channels();
  for (int64_t group = 0; group < shape.groups; ++group) {
    Moments all{count * static_cast<double>(pixels * width), 0, 0};
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      const double* own = mean + pixel * shape.channels + group * width;
      for (int64_t i = 0; i < width; ++i) all.mean += own[i];
    }
    all.mean /= static_cast<double>(pixels * width);
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      const int64_t first = pixel * shape.channels + group * width;
      for (int64_t i = first; i < first + width; ++i) {
        const double distance = mean[i] - all.mean;
        all.deviations += deviations[i] + count * distance * distance;
      }
    }
    groups[group].add(all);
  }
}

// So many rows of a chunk's first block give its centre. A quarter of the block: the block's number of rows times the
// square of the distance between the means of the two is then at most four times its squared deviations.
constexpr int64_t centring_rows = 16;

// What the tasks of one thread work with.
template <class S>
struct SheetMoments {
  using T = at::opmath_type<S>;
  SheetMoments(const Shape& the_shape, const Sheet& the_sheet)
      : shape(the_shape),
        sheet(the_sheet),
        staging(Staging<S>::block_rows * sheet.width),
        centre(sheet.width),
        scratch(2 * sheet.width),
        mean(sheet.width),
        deviations(sheet.width) {}

  void forget() {
    std::fill(mean.begin(), mean.end(), 0.0);
    std::fill(deviations.begin(), deviations.end(), 0.0);
  }

  void take(const S* x, int64_t rows, int64_t before) {
    const T* values = staging.read(x, rows * sheet.width);
    const auto run = [&](int64_t count) {
      group_norm_loops<T>().sheet_moments(values, count, sheet.width, centre.data(), scratch.data(),
                                          static_cast<double>(before), mean.data(), deviations.data());
    };
    if (before == 0) {
      std::copy(values, values + sheet.width, centre.begin());
      forget();
      run(std::min(rows, centring_rows));
      forget();
    }
    run(rows);
  }

  // x: the sample.
  void chunk(const S* x, int64_t chunk, Moments* groups) {
    const int64_t begin = sheet.begin(chunk);
    const int64_t end = sheet.end(chunk);
    for (int64_t row = begin; row < end; row += Staging<S>::block_rows) {
      take(x + row * sheet.width, std::min(Staging<S>::block_rows, end - row), row - begin);
    }
    if (end > begin) {
      add_columns(mean.data(), deviations.data(), static_cast<double>(end - begin), sheet.pixels_a_row, shape, groups);
    }
    if (!sheet.has_rest(chunk)) return;
    const int64_t count = sheet.rest * shape.channels;
    const T* values = staging.read(x + sheet.rows * sheet.width, count);
    std::copy(values, values + count, mean.begin());
    std::fill(deviations.begin(), deviations.end(), 0.0);
    add_columns(mean.data(), deviations.data(), 1, sheet.rest, shape, groups);
  }

  const Shape& shape;
  const Sheet& sheet;
  Staging<S> staging;
  std::vector<T> centre, scratch;
  std::vector<double> mean, deviations;
};

template <class S>
std::vector<Moments> sheet_moments(const S* x, const Shape& shape) {
  const Sheet sheet(shape);
  const int64_t tasks = shape.samples * sheet.chunks;
  std::vector<Moments> parts(tasks * shape.groups);
  for_tasks(tasks, std::min(sheet_chunk, shape.channels * shape.pixels), [&](int64_t begin, int64_t end) {
    SheetMoments<S> work(shape, sheet);
    for (int64_t task = begin; task < end; ++task) {
      work.chunk(x + task / sheet.chunks * shape.channels * shape.pixels, task % sheet.chunks,
                 &parts[task * shape.groups]);
    }
  });
  std::vector<Moments> whole(shape.samples * shape.groups);
  for (int64_t task = 0; task < tasks; ++task) {
    for (int64_t group = 0; group < shape.groups; ++group) {
      whole[task / sheet.chunks * shape.groups + group].add(parts[task * shape.groups + group]);
    }
  }
  return whole;
}

}  // namespace

at::Tensor cpu_moments(const at::Tensor& x, int64_t groups) {
  const Shape shape = shape_of(x, groups);
  const int64_t count = shape.samples * groups;
  const at::Tensor result = at::empty({2, shape.samples, groups}, x.options().dtype(at::kDouble));
  auto* values = result.mutable_data_ptr<double>();
  std::fill_n(values, 2 * count, 0.0);
  if (x.numel() == 0) return result;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "group_norm", [&] {
    const auto* data = x.const_data_ptr<scalar_t>();
    const auto found = channels_innermost(x) ? sheet_moments(data, shape) : line_moments(data, shape);
    for (int64_t i = 0; i < count; ++i) {
      values[i] = found[i].mean;
      values[count + i] = found[i].deviations;
    }
  });
  return result;
}

}  // namespace graticule::ops

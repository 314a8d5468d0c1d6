#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>

#include "graticule/halo/memory_format.hpp"
#include "ops/group_norm_loops.hpp"
#include "ops/group_norm_steps.hpp"
#include "ops/parallel_tasks.hpp"

namespace graticule::ops {
namespace {

using Optional = std::optional<at::Tensor>;

// Sums run in the loops' own type over one block, a task is one chunk: fixed, so that no sum depends on the threads.
constexpr int64_t line_block = 2048;
constexpr int64_t line_chunk = 32 * line_block;
constexpr int64_t sheet_chunk = int64_t{1} << 17;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Values of S as the loops take them: in place, or through a buffer in float.
template <class S>
class Staging {
 public:
  using T = at::opmath_type<S>;
  static constexpr bool in_place = std::is_same_v<S, T>;
  // Of a sheet that is summed: blocks are short where two buffers of them are to stay in the cache.
  static constexpr int64_t block_rows = in_place ? 64 : 16;

  explicit Staging(int64_t capacity) : buffer_(in_place ? 0 : capacity) {}

  const T* read(const S* from, int64_t n) {
    if constexpr (in_place) {
      return from;
    } else {
      if constexpr (std::is_same_v<S, at::Half>) half_loops().widen_half(from, buffer_.data(), n);
      if constexpr (std::is_same_v<S, at::BFloat16>) half_loops().widen_bfloat16(from, buffer_.data(), n);
      return buffer_.data();
    }
  }
  // Where the loops write what finish() then puts into `to`.
  T* target(S* to) {
    if constexpr (in_place) {
      return to;
    } else {
      return buffer_.data();
    }
  }
  void finish(S* to, int64_t n) {
    if constexpr (std::is_same_v<S, at::Half>) half_loops().narrow_half(buffer_.data(), to, n);
    if constexpr (std::is_same_v<S, at::BFloat16>) half_loops().narrow_bfloat16(buffer_.data(), to, n);
  }

 private:
  std::vector<T> buffer_;
};

struct Shape {
  int64_t samples, channels, groups, pixels;
  [[nodiscard]] int64_t group_channels() const { return channels / groups; }
};

Shape shape_of(const at::Tensor& x, int64_t groups) {
  int64_t pixels = 1;
  for (int64_t d = 2; d < x.dim(); ++d) pixels *= x.size(d);
  return {x.size(0), x.size(1), groups, pixels};
}

bool channels_innermost(const at::Tensor& x) { return halo::memory_format(x) != at::MemoryFormat::Contiguous; }

// Channels innermost: the pixels of a sample, some to a row that is long enough for the loops, as a sheet in which each
// column is of one channel. The pixels that fill no row are the rest, a row of its own and the last.
struct Sheet {
  explicit Sheet(const Shape& shape)
      : pixels_a_row(shape.channels % 16 == 0 && shape.channels >= 64 ? 1
                     : shape.channels >= 512                          ? 1
                     : shape.channels >= 8                            ? 16
                                                                      : 64),
        width(pixels_a_row * shape.channels),
        rows(shape.pixels / pixels_a_row),
        rest(shape.pixels % pixels_a_row),
        chunk_rows(std::max<int64_t>(64, sheet_chunk / std::max<int64_t>(1, width))),
        chunks(ceil_div(rows + (rest > 0 ? 1 : 0), chunk_rows)) {}
  int64_t pixels_a_row, width, rows, rest, chunk_rows, chunks;

  [[nodiscard]] int64_t begin(int64_t chunk) const { return chunk * chunk_rows; }
  [[nodiscard]] int64_t end(int64_t chunk) const { return std::min(rows, (chunk + 1) * chunk_rows); }
  [[nodiscard]] bool has_rest(int64_t chunk) const { return rest > 0 && chunk == chunks - 1; }
};

// --- statistics ---

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
  const int64_t chunks = ceil_div(length, line_chunk);
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
    const auto run = [&] {
      group_norm_loops<T>().sheet_moments(values, rows, sheet.width, centre.data(), scratch.data(),
                                          static_cast<double>(before), mean.data(), deviations.data());
    };
    if (before == 0) {
      std::copy(values, values + sheet.width, centre.begin());
      forget();
      run();
      forget();
    }
    run();
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

at::Tensor moments(const at::Tensor& x, int64_t groups) {
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

// --- passes that write ---

// One coefficient a sample and channel, K kinds of them.
template <class T, int K>
using Coefficients = std::array<std::vector<T>, K>;

// Spread over the columns of one sample's sheet.
template <class T, int K>
void spread(const Coefficients<T, K>& from, int64_t sample, const Shape& shape, const Sheet& sheet,
            Coefficients<T, K>& to) {
  for (int k = 0; k < K; ++k) {
    const auto first = from[k].begin() + sample * shape.channels;
    for (int64_t pixel = 0; pixel < sheet.pixels_a_row; ++pixel) {
      std::copy(first, first + shape.channels, to[k].begin() + pixel * shape.channels);
    }
  }
}

// Calls work(first value, values, plane) for every block of every plane, where `work` is what make(most values)
// returned on that thread: last chunks first, for those the pass before this one left in the cache.
template <class Make>
void each_line(const Shape& shape, const Make& make) {
  const int64_t chunks = ceil_div(shape.pixels, line_chunk);
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
  });
}

// A parameter's values, or `otherwise` for each where there is none.
std::vector<double> values_of(const Optional& parameter, int64_t channels, double otherwise) {
  std::vector<double> values(channels, otherwise);
  if (!parameter.has_value() || !parameter->defined()) return values;
  const at::Tensor dense = parameter->contiguous();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dense.scalar_type(), "group_norm",
                                  [&] { std::copy_n(dense.const_data_ptr<scalar_t>(), channels, values.begin()); });
  return values;
}

at::Tensor result_like(const at::Tensor& x) {
  return at::empty(x.sizes(), x.options().memory_format(halo::memory_format(x)));
}

// y = (x - centre) * scale + shift; coefficients in this order.
template <class S>
void affine(const S* x, S* y, const Shape& shape, bool sheets, const Coefficients<at::opmath_type<S>, 3>& of) {
  using T = at::opmath_type<S>;
  const auto& loops = group_norm_loops<T>();
  if (sheets) {
    each_sheet<T, 3>(shape, of, [&](int64_t most) {
      return [&, in = Staging<S>(most), out = Staging<S>(most)](int64_t first, int64_t rows, int64_t width,
                                                                const Coefficients<T, 3>& columns) mutable {
        loops.sheet_affine(in.read(x + first, rows * width), out.target(y + first), rows, width, columns[0].data(),
                           columns[1].data(), columns[2].data());
        out.finish(y + first, rows * width);
      };
    });
    return;
  }
  each_line(shape, [&](int64_t most) {
    return [&, in = Staging<S>(most), out = Staging<S>(most)](int64_t first, int64_t n, int64_t plane) mutable {
      loops.line_affine(in.read(x + first, n), out.target(y + first), n, of[0][plane], of[1][plane], of[2][plane]);
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
  if (sheets) {
    each_sheet<T, 4>(shape, of, [&](int64_t most) {
      return [&, grads = Staging<S>(most), in = Staging<S>(most), out = Staging<S>(most)](
                 int64_t first, int64_t rows, int64_t width, const Coefficients<T, 4>& columns) mutable {
        loops.sheet_gradient(grads.read(g + first, rows * width), in.read(x + first, rows * width),
                             out.target(y + first), rows, width, columns[0].data(), columns[1].data(),
                             columns[2].data(), columns[3].data());
        out.finish(y + first, rows * width);
      };
    });
    return;
  }
  each_line(shape, [&](int64_t most) {
    return [&, grads = Staging<S>(most), in = Staging<S>(most), out = Staging<S>(most)](int64_t first, int64_t n,
                                                                                        int64_t plane) mutable {
      loops.line_gradient(grads.read(g + first, n), in.read(x + first, n), out.target(y + first), n, of[0][plane],
                          of[1][plane], of[2][plane], of[3][plane]);
      out.finish(y + first, n);
    };
  });
}

at::Tensor prepare(const at::Tensor& t, const at::Tensor& x) {
  return t.to(x.scalar_type()).contiguous(halo::memory_format(x));
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

// Tensors of float64 as they came over the wire, and where their values lie.
struct Parts {
  explicit Parts(const std::vector<at::Tensor>& tensors) {
    for (const at::Tensor& tensor : tensors) {
      kept.push_back(tensor.contiguous());
      values.push_back(kept.back().const_data_ptr<double>());
    }
  }
  std::vector<at::Tensor> kept;
  std::vector<const double*> values;
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> normalise(const at::Tensor& x, const Optional& weight,
                                                         const Optional& bias, const std::vector<at::Tensor>& moments,
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
    rstds[group] = 1 / std::sqrt(whole.variance + eps);
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

// --- sums of the backward pass: of each sample and channel sum(g * (x - centre)), then of each sum(g) ---

template <class S, class T>
void line_products(const S* g, const S* x, const Shape& shape, const std::vector<T>& centres, double* sums) {
  const auto& loops = group_norm_loops<T>();
  const int64_t planes = shape.samples * shape.channels;
  const int64_t chunks = ceil_div(shape.pixels, line_chunk);
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

at::Tensor channel_sums(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean) {
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

// --- small arithmetic of the backward pass ---

at::Tensor parameter(const std::vector<double>& values, at::ScalarType type, const at::Tensor& like) {
  at::Tensor result = at::empty({static_cast<int64_t>(values.size())}, like.options().dtype(type));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, type, "group_norm", [&] {
    auto* to = result.mutable_data_ptr<scalar_t>();
    for (const double value : values) *to++ = static_cast<scalar_t>(value);
  });
  return result;
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
  return {wanted[0] ? parameter(weight, type, sums) : at::Tensor(),
          wanted[1] ? parameter(bias, type, sums) : at::Tensor()};
}

at::Tensor group_sums(const at::Tensor& sums, const Optional& weight, int64_t groups) {
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

at::Tensor input_gradient(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                          const Optional& weight, const std::vector<at::Tensor>& group_sums, double total) {
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

}  // namespace

const GroupNormSteps& cpu_group_norm_steps() {
  static constexpr GroupNormSteps steps{prepare,    moments,       normalise, channel_sums, parameter_gradients,
                                        group_sums, input_gradient};
  return steps;
}

}  // namespace graticule::ops

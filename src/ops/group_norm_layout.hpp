// How group normalisation on the CPU divides a tensor into tasks and blocks.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "graticule/halo/memory_format.hpp"
#include "graticule/rows/interval.hpp"

namespace graticule::ops {

/// Values in a block or a chunk. Sums run in the loops' own type over one block, a task is one chunk: fixed, so that no
/// sum depends on the threads.
constexpr int64_t line_block = 2048;
constexpr int64_t line_chunk = 32 * line_block;
constexpr int64_t sheet_chunk = int64_t{1} << 17;

/// Of a tensor (N, C, ...): `pixels` is the product of the sizes behind C, `groups` divides `channels`.
struct Shape {
  int64_t samples, channels, groups, pixels;
  [[nodiscard]] int64_t group_channels() const { return channels / groups; }
};

inline Shape shape_of(const at::Tensor& x, int64_t groups) {
  int64_t pixels = 1;
  for (int64_t d = 2; d < x.dim(); ++d) pixels *= x.size(d);
  return {x.size(0), x.size(1), groups, pixels};
}

/// Whether a sample is a sheet, else every plane is a line. x is dense in the one order or the other.
inline bool channels_innermost(const at::Tensor& x) { return halo::memory_format(x) != at::MemoryFormat::Contiguous; }

/// Channels innermost: the pixels of a sample, some to a row that is long enough for the loops, as a sheet in which
/// each column is of one channel. The pixels that fill no row are the rest, a row of its own behind the others and
/// part of the last chunk.
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
        chunks(rows::ceil_div(rows + (rest > 0 ? 1 : 0), chunk_rows)) {}
  int64_t pixels_a_row, width, rows, rest, chunk_rows, chunks;

  /// The chunk's whole rows, [begin, end).
  [[nodiscard]] int64_t begin(int64_t chunk) const { return chunk * chunk_rows; }
  [[nodiscard]] int64_t end(int64_t chunk) const { return std::min(rows, (chunk + 1) * chunk_rows); }
  [[nodiscard]] bool has_rest(int64_t chunk) const { return rest > 0 && chunk == chunks - 1; }
};

/// One value a sample and channel, K kinds of them.
template <class T, int K>
using Coefficients = std::array<std::vector<T>, K>;

/// Spreads those of one sample over the columns of its sheet: `to` holds sheet.width values of each kind.
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

}  // namespace graticule::ops

#include "halo/row_copy.hpp"

#include <ATen/ATen.h>

#include <cstring>
#include <optional>

namespace graticule::halo {
namespace {

// Larger copies are left to tensor operations, which share them among threads.
constexpr int64_t most_bytes = 1 << 20;

// Memory of a dense tensor on the CPU: `blocks` runs of `rows` rows, each of `row_bytes` bytes.
struct RowBlocks {
  char* data = nullptr;
  int64_t blocks = 1;
  int64_t rows = 0;
  int64_t row_bytes = 0;
  bool channels_innermost = false;

  [[nodiscard]] char* at(int64_t block, int64_t row) const { return data + (block * rows + row) * row_bytes; }
};

bool channels_innermost(const at::Tensor& t) {
  return (t.dim() == 4 && t.is_contiguous(at::MemoryFormat::ChannelsLast)) ||
         (t.dim() == 5 && t.is_contiguous(at::MemoryFormat::ChannelsLast3d));
}

std::optional<RowBlocks> row_blocks(const at::Tensor& t, int64_t dim) {
  if (!t.device().is_cpu() || t.is_neg() || t.is_conj()) return std::nullopt;
  RowBlocks result;
  result.rows = t.size(dim);
  result.row_bytes = static_cast<int64_t>(t.element_size());
  if (!t.is_contiguous()) {
    if (!channels_innermost(t) || dim < 2) return std::nullopt;
    result.channels_innermost = true;
    result.row_bytes *= t.size(1);
  }
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (d == dim || (d == 1 && result.channels_innermost)) continue;
    (d < dim ? result.blocks : result.row_bytes) *= t.size(d);
  }
  // Sources are only read.
  result.data = const_cast<char*>(static_cast<const char*>(t.const_data_ptr()));
  return result;
}

}  // namespace

void copy_rows(const at::Tensor& from, int64_t from_row, const at::Tensor& to, int64_t to_row, int64_t count,
               int64_t dim) {
  const auto source = row_blocks(from, dim);
  const auto target = row_blocks(to, dim);
  if (source && target && source->channels_innermost == target->channels_innermost &&
      count * source->blocks * source->row_bytes <= most_bytes) {
    for (int64_t block = 0; block < source->blocks; ++block) {
      std::memcpy(target->at(block, to_row), source->at(block, from_row), count * source->row_bytes);
    }
    return;
  }
  to.narrow(dim, to_row, count).copy_(from.narrow(dim, from_row, count));
}

void clear_rows(const at::Tensor& t, int64_t row, int64_t count, int64_t dim) {
  const auto target = row_blocks(t, dim);
  if (!target) {
    t.narrow(dim, row, count).zero_();
    return;
  }
  for (int64_t block = 0; block < target->blocks; ++block) {
    std::memset(target->at(block, row), 0, count * target->row_bytes);
  }
}

}  // namespace graticule::halo

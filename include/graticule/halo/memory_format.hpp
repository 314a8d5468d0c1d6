// The memory format that a shard is meant to have.
#pragma once

#include <ATen/DimVector.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>

namespace graticule::halo {

/// t's memory format. Tensor::suggest_memory_format calls a shard of no rows contiguous; its strides know better.
inline at::MemoryFormat memory_format(const at::Tensor& t) {
  const at::MemoryFormat format = t.suggest_memory_format();
  if (format != at::MemoryFormat::Contiguous || t.dim() < 4 || t.dim() > 5 || t.sym_numel() != 0) return format;
  const bool channels_innermost = t.size(1) > 1 && t.stride(1) == 1 && t.stride(-1) == t.size(1);
  if (!channels_innermost) return format;
  return t.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::ChannelsLast3d;
}

/// An uninitialised tensor of these sizes, in `like`'s dtype, device and memory format.
inline at::Tensor empty_with(const at::Tensor& like, at::IntArrayRef sizes) {
  return at::empty(sizes, like.options().memory_format(memory_format(like)));
}

/// The same of `like`'s sizes, but for `count` rows in dimension `dim`.
inline at::Tensor empty_rows(const at::Tensor& like, int64_t dim, int64_t count) {
  at::DimVector sizes(like.sizes());
  sizes[dim] = count;
  return empty_with(like, sizes);
}

}  // namespace graticule::halo

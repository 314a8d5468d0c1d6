// The memory format that a shard is meant to have.
#pragma once

#include <ATen/core/Tensor.h>

namespace graticule::halo {

/// t's memory format. Tensor::suggest_memory_format calls a shard of no rows contiguous; its strides know better.
inline at::MemoryFormat memory_format(const at::Tensor& t) {
  const at::MemoryFormat format = t.suggest_memory_format();
  if (format != at::MemoryFormat::Contiguous || t.dim() < 4 || t.dim() > 5 || t.sym_numel() != 0) return format;
  const bool channels_innermost = t.size(1) > 1 && t.stride(1) == 1 && t.stride(-1) == t.size(1);
  if (!channels_innermost) return format;
  return t.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::ChannelsLast3d;
}

}  // namespace graticule::halo

// Memory of messages, used again.
//
// Memory that is given back to the system and taken anew costs a page fault for every few kilobytes: more than a halo's
// own journey.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace graticule::comm {

/// A tensor of `bytes` bytes on the CPU, uninitialised: one of an earlier message that nobody refers to any longer,
/// where there is one. At most 64 MiB are kept. Safe to call from any thread.
at::Tensor take_buffer(int64_t bytes);

}  // namespace graticule::comm

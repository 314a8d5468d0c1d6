// What stands in front of a message.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace graticule::comm {

enum class MessageKind : uint32_t {
  data = 1,      ///< a payload follows
  poison = 2,    ///< the sender has failed
  announce = 3,  ///< nothing follows; the next message will be of this tag and size
};

struct MessageHeader {
  static constexpr uint64_t magic_number = 0x6772617469637531ULL;
  uint64_t magic = 0;
  uint64_t tag = 0;
  uint64_t sequence = 0;
  uint64_t bytes = 0;
  uint64_t drawn = 0;  ///< what the sender had drawn at random for tensors that the ranks share
  MessageKind kind = MessageKind::data;
  int32_t source = -1;
};

/// Bytes that the header takes: the payload behind it stays aligned.
constexpr int64_t header_bytes = 64;
static_assert(sizeof(MessageHeader) <= header_bytes);

inline bool has_header(const at::Tensor& buffer) { return buffer.device().is_cpu(); }
inline MessageHeader& header_of(const at::Tensor& buffer) {
  return *static_cast<MessageHeader*>(buffer.mutable_data_ptr());
}

}  // namespace graticule::comm

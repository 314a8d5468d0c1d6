#include "comm/buffer_pool.hpp"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <mutex>
#include <unordered_map>
#include <vector>

namespace graticule::comm {
namespace {

// The system's allocator keeps smaller pieces at hand by itself.
constexpr int64_t least_bytes = 16 << 10;
constexpr int64_t most_bytes = 64 << 20;

class BufferPool {
 public:
  at::Tensor take(int64_t bytes) {
    // A buffer made in inference mode could not be written to outside of it.
    const c10::InferenceMode guard(false);
    const std::lock_guard lock(mutex_);
    std::vector<at::Tensor>& buffers = buffers_[bytes];
    for (const at::Tensor& buffer : buffers) {
      if (is_free(buffer)) return buffer;
    }
    at::Tensor fresh = at::empty({bytes}, at::kByte);
    if (kept_ + bytes > most_bytes) drop_free();
    if (kept_ + bytes <= most_bytes) {
      buffers_[bytes].push_back(fresh);
      kept_ += bytes;
    }
    return fresh;
  }

 private:
  // Only the pool refers to it: nobody else can come to, but through the pool.
  static bool is_free(const at::Tensor& buffer) { return buffer.use_count() == 1 && buffer.storage().use_count() == 1; }

  void drop_free() {
    for (auto& [bytes, buffers] : buffers_) {
      const auto dropped = std::erase_if(buffers, is_free);
      kept_ -= static_cast<int64_t>(dropped) * bytes;
    }
    std::erase_if(buffers_, [](const auto& entry) { return entry.second.empty(); });
  }

  std::mutex mutex_;
  std::unordered_map<int64_t, std::vector<at::Tensor>> buffers_;
  int64_t kept_ = 0;
};

}  // namespace

at::Tensor take_buffer(int64_t bytes) {
  if (bytes < least_bytes) return at::empty({bytes}, at::kByte);
  // Never destroyed: at exit other threads may still hold messages.
  static auto* const pool = new BufferPool();
  return pool->take(bytes);
}

}  // namespace graticule::comm

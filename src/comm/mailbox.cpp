#include "comm/mailbox.hpp"

#include <utility>

namespace graticule::comm {

std::shared_ptr<Mailbox> Mailbox::of_world(const std::string& world) {
  static std::mutex mutex;
  static std::map<std::string, std::weak_ptr<Mailbox>> worlds;
  const std::lock_guard lock(mutex);
  std::erase_if(worlds, [](const auto& entry) { return entry.second.expired(); });
  auto& known = worlds[world];
  auto mailbox = known.lock();
  if (!mailbox) known = mailbox = std::make_shared<Mailbox>();
  return mailbox;
}

void Mailbox::put(const Address& address, at::Tensor message) {
  {
    const std::lock_guard lock(mutex_);
    messages_[address].push_back(std::move(message));
  }
  arrived_.notify_all();
}

at::Tensor Mailbox::take(const Address& address, std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  auto& queue = messages_[address];
  const bool came = arrived_.wait_for(lock, timeout, [&queue] { return !queue.empty(); });
  TORCH_CHECK(came, "no message from rank ", std::get<0>(address), " within ", timeout.count(), " ms");
  at::Tensor message = std::move(queue.front());
  queue.pop_front();
  return message;
}

}  // namespace graticule::comm

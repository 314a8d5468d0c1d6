#include "comm/mailbox.hpp"

#include <utility>

namespace graticule::comm {

std::shared_ptr<Mailbox> Mailbox::of_world(const std::string& world, int size) {
  struct Known {
    std::shared_ptr<Mailbox> mailbox = std::make_shared<Mailbox>();
    int asked = 0;
  };
  static std::mutex mutex;
  static std::map<std::string, Known> worlds;
  const std::lock_guard lock(mutex);
  Known& known = worlds[world];
  const std::shared_ptr<Mailbox> mailbox = known.mailbox;
  if (++known.asked == size) worlds.erase(world);
  return mailbox;
}

void Mailbox::put(const Address& address, at::Tensor message) {
  {
    const std::lock_guard lock(mutex_);
    Queue& queue = queues_[address];
    queue.messages.emplace(queue.put++, std::move(message));
  }
  arrived_.notify_all();
}

uint64_t Mailbox::claim(const Address& address) {
  const std::lock_guard lock(mutex_);
  return queues_[address].claimed++;
}

at::Tensor Mailbox::take(const Address& address, uint64_t number, std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  auto& messages = queues_[address].messages;
  const bool came = arrived_.wait_for(lock, timeout, [&] { return messages.count(number) != 0; });
  TORCH_CHECK(came, "no message from rank ", std::get<0>(address), " within ", timeout.count(), " ms");
  at::Tensor message = std::move(messages.at(number));
  messages.erase(number);
  return message;
}

}  // namespace graticule::comm

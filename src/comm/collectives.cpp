#include "graticule/comm/collectives.hpp"

#include <ATen/ATen.h>

#include <cstring>
#include <numeric>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <utility>

#include "comm/domain_state.hpp"
#include "comm/failure.hpp"
#include "comm/reason.hpp"
#include "comm/traffic.hpp"
#include "comm/transports.hpp"
#include "graticule/comm/exchange.hpp"

namespace graticule::comm {
namespace {

constexpr uint64_t most_ordered_bytes = 64 << 10;

// As copy_, which costs more than a small message where both lie dense.
void copy_dense(const at::Tensor& from, const at::Tensor& to) {
  if (!from.device().is_cpu() || !from.is_contiguous() || from.is_conj() || from.is_neg()) {
    to.copy_(from);
  } else if (from.numel() > 0) {
    std::memcpy(to.mutable_data_ptr(), from.const_data_ptr(), from.nbytes());
  }
}

// A message to every other rank and one from it. Ranks are few and values small: this takes no longer than a
// transport's own gathering, and headers, failures and mismatches are those of every other message.
std::vector<at::Tensor> exchange_with_all(const Domain& domain, const at::Tensor& local, const MessageTag& tag,
                                          const std::string& what) {
  std::vector<Message> sends;
  std::vector<Message> receives;
  std::vector<at::Tensor> result(domain.size());
  sends.reserve(domain.size());
  receives.reserve(domain.size());
  const auto make_room = [&]() { return make_buffer(tag, at::kCPU, local.scalar_type(), local.sizes()); };
  for (int peer = 0; peer < domain.size(); ++peer) {
    if (peer == domain.rank()) {
      result[peer] = at::empty(local.sizes(), local.options());
      copy_dense(local, result[peer]);
      continue;
    }
    sends.push_back({peer, make_room()});
    copy_dense(local, payload(sends.back().buffer, local.scalar_type(), local.sizes()));
    receives.push_back({peer, make_room()});
    result[peer] = payload(receives.back().buffer, local.scalar_type(), local.sizes());
  }
  start_exchange(domain, std::move(sends), std::move(receives), what).wait();
  if (!local.device().is_cpu()) {
    for (at::Tensor& part : result) part = part.to(local.device());
  }
  return result;
}

std::vector<at::Tensor> gather_by_transport(const Domain& domain, const at::Tensor& local, const std::string& what) {
  std::vector<std::vector<at::Tensor>> gathered(1);
  for (int rank = 0; rank < domain.size(); ++rank) {
    gathered[0].push_back(at::empty_like(local, at::MemoryFormat::Contiguous));
  }
  std::vector<at::Tensor> inputs{local.contiguous()};
  const Turn turn(domain, what);
  count_sent(domain, local.nbytes() * (domain.size() - 1), domain.size() - 1);
  const auto backend = transport(domain, local.device(), what);
  const std::chrono::milliseconds timeout = patience(domain, *backend, local.device());
  try {
    backend->allgather(gathered, inputs)->wait(timeout);
  } catch (const std::exception& error) {
    fail(domain, c10::str(what, ": gathering over the ranks: ", reason(error), where(domain)));
  }
  return gathered[0];
}

}  // namespace

at::Device steering_device(const Domain& domain) {
  const auto devices = domain.group()->getDeviceTypes();
  for (const at::Device& device : devices) {
    if (device.is_cpu()) return device;
  }
  return devices.empty() ? at::Device(at::kCPU) : devices.front();
}

std::vector<at::Tensor> all_gather(const Domain& domain, const at::Tensor& local, const std::string& what,
                                   Facts facts) {
  check_alive(domain);
  facts.add(what).add(static_cast<int64_t>(local.scalar_type())).add(local.sizes().vec());
  if (!message_device(domain, local.device()).is_cpu()) return gather_by_transport(domain, local, what);
  return exchange_with_all(domain, local, {facts.hash()}, what);
}

void all_reduce_sum_(const Domain& domain, at::Tensor& t, const std::string& what) {
  check_alive(domain);
  if (domain.size() == 1) return;
  if (t.nbytes() <= most_ordered_bytes) {
    std::vector<at::Tensor> parts = all_gather(domain, t.contiguous(), what);
    for (int rank = 1; rank < domain.size(); ++rank) parts[0].add_(parts[rank]);
    t.copy_(parts[0]);
    return;
  }
  // The transport's reduction carries no header: the ranks agree on what they add before.
  const at::Device device = message_device(domain, t.device());
  if (device.is_cpu()) {
    all_gather(domain, at::empty({0}, t.options()), c10::str(what, " (a sum of shape ", t.sizes(), ")"));
  }
  at::Tensor sum = t.to(device).contiguous();
  std::vector<at::Tensor> tensors{sum};
  const Turn turn(domain, what);
  count_sent(domain, t.nbytes(), domain.size() - 1);
  const auto backend = transport(domain, device, what);
  const std::chrono::milliseconds timeout = patience(domain, *backend, device);
  try {
    backend->allreduce(tensors)->wait(timeout);
  } catch (const std::exception& error) {
    fail(domain, c10::str(what, ": adding over the ranks: ", reason(error), where(domain)));
  }
  if (!sum.is_same(t)) t.copy_(sum);
}

at::Tensor all_to_all(const Domain& domain, const at::Tensor& parts, const std::vector<int64_t>& send_counts,
                      const std::vector<int64_t>& receive_counts, const std::string& what) {
  check_alive(domain);
  const auto ranks = static_cast<size_t>(domain.size());
  const auto sum = [](const std::vector<int64_t>& counts) {
    return std::accumulate(counts.begin(), counts.end(), int64_t{0});
  };
  TORCH_CHECK_VALUE(send_counts.size() == ranks && receive_counts.size() == ranks && parts.dim() == 1 &&
                        sum(send_counts) == parts.numel() &&
                        send_counts[domain.rank()] == receive_counts[domain.rank()],
                    what, ": expected counts for ", ranks, " ranks that make up a flat tensor, got ", send_counts,
                    " sent of ", parts.sizes(), " and ", receive_counts, " received", where(domain));
  at::Tensor result = at::empty({sum(receive_counts)}, parts.options());
  std::vector<Message> sends;
  std::vector<Message> receives;
  std::vector<std::pair<at::Tensor, at::Tensor>> landed;
  // Counts are global facts, but those of a pair are known to the pair alone: a message says how long it is.
  const auto tag = [&](int64_t count) {
    return MessageTag{Facts().add(what).add(static_cast<int64_t>(parts.scalar_type())).add(count).hash()};
  };
  const at::Device device = message_device(domain, parts.device());
  const at::ScalarType dtype = parts.scalar_type();
  int64_t from = 0;
  int64_t to = 0;
  for (int peer = 0; peer < domain.size(); ++peer) {
    const int64_t going = send_counts[peer];
    const int64_t coming = receive_counts[peer];
    const at::Tensor source = parts.narrow(0, from, going);
    const at::Tensor target = result.narrow(0, to, coming);
    from += going;
    to += coming;
    if (peer == domain.rank()) {
      target.copy_(source);
      continue;
    }
    if (going > 0) {
      sends.push_back({peer, make_buffer(tag(going), device, dtype, {going})});
      payload(sends.back().buffer, dtype, {going}).copy_(source);
    }
    if (coming > 0) {
      receives.push_back({peer, make_buffer(tag(coming), device, dtype, {coming})});
      landed.emplace_back(target, payload(receives.back().buffer, dtype, {coming}));
    }
  }
  start_exchange(domain, std::move(sends), std::move(receives), what).wait();
  for (auto& [target, values] : landed) target.copy_(values);
  return result;
}

std::vector<int64_t> gather_sizes(const Domain& domain, int64_t local_rows, const std::string& what) {
  std::vector<int64_t> offsets{0};
  const at::Tensor local = at::tensor({local_rows}, at::kLong).to(steering_device(domain));
  for (const at::Tensor& rows : all_gather(domain, local, what + " (sizes)")) {
    offsets.push_back(offsets.back() + rows.item<int64_t>());
  }
  return offsets;
}

}  // namespace graticule::comm

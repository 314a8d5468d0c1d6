#include "comm/transports.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "comm/domain_state.hpp"
#include "comm/failure.hpp"
#include "comm/reason.hpp"
#include "graticule/comm/exchange.hpp"
#include "graticule/comm/thread_group.hpp"

namespace graticule::comm {
namespace {

bool has_transport(const c10d::ProcessGroup& group, const at::Device& device) {
  const auto devices = group.getDeviceTypes();
  return std::any_of(devices.begin(), devices.end(), [&](const at::Device& d) { return d.type() == device.type(); });
}

bool are_threads(const Domain& domain) {
  const auto& group = domain.group();
  return has_transport(*group, at::kCPU) && group->getBackend(at::kCPU)->getBackendName() == thread_backend_name;
}

bool reaches(const c10d::Backend& backend, const at::Device& device) {
  if (const auto* const known = dynamic_cast<const ReachesDevices*>(&backend)) return known->reaches(device);
  // A group made for Gloo has it for every device, but its messages are of the CPU's memory alone.
  return backend.getBackendName() != "gloo";
}

// NCCL makes its communicator at the first call, and every rank must make that call: not so the first exchange, which
// only neighbours take part in.
void connect(const Domain& domain, c10d::Backend& backend, const at::Device& device) {
  if (!backend.supportsCoalescing()) return;
  Domain::State& state = domain.state();
  {
    const std::lock_guard lock(state.mutex);
    if (state.connected.count(device) != 0) return;
    state.connected.insert(device);
  }
  std::vector<at::Tensor> nothing{at::zeros({1}, at::TensorOptions().dtype(at::kFloat).device(device))};
  try {
    backend.allreduce(nothing)->wait();
  } catch (const std::exception& error) {
    fail(domain, c10::str("connecting the ranks by ", backend.getBackendName(), ": ", reason(error), where(domain)));
  }
}

}  // namespace

c10::intrusive_ptr<c10d::Backend> transport(const Domain& domain, const at::Device& device, const std::string& what) {
  Domain::State& state = domain.state();
  {
    const std::lock_guard lock(state.mutex);
    if (const auto known = state.backends.find(device.type()); known != state.backends.end()) {
      if (auto backend = known->second.lock()) return backend;
    }
  }
  TORCH_CHECK(has_transport(*domain.group(), device), what, ": the process group ", domain.name(),
              " has no transport for tensors on ", device.type(),
              "; init_process_group(\"cpu:gloo,cuda:nccl\") has one for each", where(domain));
  auto backend = domain.group()->getBackend(device.type());
  const std::lock_guard lock(state.mutex);
  state.backends.insert_or_assign(device.type(), c10::weak_intrusive_ptr<c10d::Backend>(backend));
  return backend;
}

std::chrono::milliseconds patience(const Domain& domain, const c10d::Backend& backend, const at::Device& device) {
  const bool on_streams = !device.is_cpu() && dynamic_cast<const ReachesDevices*>(&backend) == nullptr;
  return on_streams ? kNoTimeout : domain.timeout();
}

at::Device message_device(const Domain& domain, const at::Device& device) {
  if (device.is_cpu() || domain.size() == 1) return at::kCPU;
  if (!has_transport(*domain.group(), device)) {
    // Autograd has one thread a device: backward of the first rank to come would hold up that of the others.
    TORCH_CHECK(!are_threads(domain), "the ranks of ", domain.name(), " are threads of one process, which exchange ",
                "tensors of the CPU alone; got one on ", device, ": use processes", where(domain));
    return at::kCPU;
  }
  const auto backend = domain.group()->getBackend(device.type());
  if (!reaches(*backend, device)) return at::kCPU;
  connect(domain, *backend, device);
  return device;
}

}  // namespace graticule::comm

// Which of a group's backends carries what, and how it is waited for.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "graticule/comm/domain.hpp"

namespace graticule::comm {

/// A backend that says from which devices' memory it sends and into which it receives.
class ReachesDevices {
 public:
  virtual ~ReachesDevices() = default;
  [[nodiscard]] virtual bool reaches(const at::Device& device) const = 0;
};

/// The group's backend for tensors of `device`. Throws where it has none: which ones there are every rank knows.
c10::intrusive_ptr<c10d::Backend> transport(const Domain& domain, const at::Device& device, const std::string& what);

/// How long to wait for a work: the domain's timeout; without end for a transport that orders its works on the device's
/// streams (NCCL), where a wait with an end would hold up the calling thread until the device has done all that was
/// asked of it. Such a transport has a timeout of its own.
std::chrono::milliseconds patience(const Domain& domain, const c10d::Backend& backend, const at::Device& device);

}  // namespace graticule::comm

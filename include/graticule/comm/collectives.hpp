// Small collectives, checked like messages.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "graticule/comm/domain.hpp"
#include "graticule/comm/facts.hpp"

namespace graticule::comm {

/// Every rank's tensor, in rank order. All ranks must call with the same shape and dtype; `what` names the layer.
/// `facts` tells whatever else the ranks must agree on. Throws within the timeout where they differ.
std::vector<at::Tensor> all_gather(const Domain& domain, const at::Tensor& local, const std::string& what,
                                   Facts facts = {});

/// The sum over the ranks, in place: in rank order, the same bits on every rank and every run, up to 64 KiB; by the
/// transport's own reduction above.
void all_reduce_sum_(const Domain& domain, at::Tensor& t, const std::string& what);

/// What every rank sends to this one, in rank order, in one flat tensor. `parts` is flat and holds what goes to each
/// rank, in rank order: send_counts[r] values to rank r, this rank itself included. All ranks must call with counts
/// that agree: receive_counts[r] is what rank r sends here. Throws within the timeout where they differ.
at::Tensor all_to_all(const Domain& domain, const at::Tensor& parts, const std::vector<int64_t>& send_counts,
                      const std::vector<int64_t>& receive_counts, const std::string& what);

/// Where numbers that only steer live: on the CPU if the group has a transport for it.
at::Device steering_device(const Domain& domain);

/// The cut that the ranks' numbers of rows make: N + 1 offsets. All ranks must call.
std::vector<int64_t> gather_sizes(const Domain& domain, int64_t local_rows, const std::string& what);

}  // namespace graticule::comm

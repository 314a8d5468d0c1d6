// From whole tensors to shards and back, and the sum of parameter gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "graticule/comm/domain.hpp"

namespace graticule {

/// This rank's rows of a tensor that every rank holds whole, cut in balance. Differentiable: the gradient on this rank
/// is that of its own rows, zero elsewhere. No message.
at::Tensor shard_tensor(const at::Tensor& x, int64_t dim, const comm::Domain& domain);

/// The whole tensor on every rank, from shards of any sizes. Differentiable by the exact adjoint: the gradient of a row
/// is the sum of what every rank has for it, as it must be where the loss is the sum of the ranks' losses. All ranks
/// must call.
at::Tensor gather_tensor(const at::Tensor& x, int64_t dim, const comm::Domain& domain);

/// Sums the gradients of the parameters over the domain, in buckets, in float32 or wider. To be called once after the
/// last backward of a step, by all ranks, with the same parameters in the same order. A gradient that is undefined here
/// and defined elsewhere counts as zero.
void sync_domain_gradients(const std::vector<at::Tensor>& parameters, const comm::Domain& domain);

}  // namespace graticule

// A group normalisation's call worked out: once for all calls with equal facts.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graticule/comm/domain.hpp"
#include "graticule/comm/facts.hpp"

namespace graticule::ops {

/// What a call is told beside its tensors, as its schemas have it.
struct GroupNormView {
  int64_t num_groups;
  double eps;
  at::IntArrayRef in_offsets;
  int64_t dim;
  std::string_view group, layer;
};

/// The same in memory of its own, and what follows from it and from x's sizes and dtype.
struct GroupNormCall {
  int64_t num_groups;
  double eps;
  std::vector<int64_t> in_offsets;
  int64_t dim;
  std::string group, layer;
  std::vector<double> elements;   ///< of one group of one sample, on each rank
  double total;                   ///< of all ranks
  comm::Facts forward, backward;  ///< what the ranks must agree on beside the shape of their statistics

  /// Refers to this.
  [[nodiscard]] GroupNormView view() const { return {num_groups, eps, in_offsets, dim, group, layer}; }
};

/// Found in O(1) after the first call with equal facts.
std::shared_ptr<const GroupNormCall> find_group_norm_call(const at::Tensor& x, const GroupNormView& view);

/// The dtype in which x is normalised: its own, or the one that autocast asks for. Throws what is wrong with the call,
/// from what every rank knows. Found in O(1) after the first call with equal facts.
at::ScalarType check_group_norm(const at::Tensor& x, const std::optional<at::Tensor>& weight,
                                const std::optional<at::Tensor>& bias, const GroupNormView& view,
                                const comm::Domain& domain);

}  // namespace graticule::ops

// What a rank computes of a group normalisation around its collectives: on the CPU in loops of our own, elsewhere with
// ATen's ops.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "graticule/comm/domain.hpp"
#include "ops/call_trace.hpp"

namespace graticule::ops {

/// x is this rank's rows, (N, C, ...), maybe none. What goes over the wire and what is kept is float64; results have
/// x's dtype and memory format. Nothing here communicates.
struct GroupNormSteps {
  const char* pass;  ///< for traces: what a step that takes all of x is

  /// x itself, or the gradient of a result, as the other steps want it: in x's dtype and memory format where they do.
  at::Tensor (*prepare)(const at::Tensor& t, const at::Tensor& x);

  /// Mean and sum of squared deviations of each group: (2, N, groups). Zero where there are no values.
  at::Tensor (*moments)(const at::Tensor& x, int64_t groups);
  /// (y, mean, rstd) from every rank's moments and its number of values in a group of a sample; mean and rstd are (N,
  /// groups), the same bits on every rank.
  std::tuple<at::Tensor, at::Tensor, at::Tensor> (*normalise)(const at::Tensor& x,
                                                              const std::optional<at::Tensor>& weight,
                                                              const std::optional<at::Tensor>& bias,
                                                              const std::vector<at::Tensor>& moments,
                                                              const std::vector<double>& counts, double eps);

  /// Of each channel the sums of grad * (x - mean) and of grad: (2, N, C).
  at::Tensor (*channel_sums)(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean);
  /// This rank's part of the gradients of weight and bias, as far as wanted.
  std::pair<at::Tensor, at::Tensor> (*parameter_gradients)(const at::Tensor& channel_sums, const at::Tensor& rstd,
                                                           at::ScalarType type, std::array<bool, 2> wanted);
  /// The channel sums times the weight, of each group: (2, N, groups).
  at::Tensor (*group_sums)(const at::Tensor& channel_sums, const std::optional<at::Tensor>& weight, int64_t groups);
  /// x's gradient from every rank's group sums; `total` is the number of values in a group of a whole sample.
  at::Tensor (*input_gradient)(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean,
                               const at::Tensor& rstd, const std::optional<at::Tensor>& weight,
                               const std::vector<at::Tensor>& group_sums, double total);
};

const GroupNormSteps& aten_group_norm_steps();
/// For strided CPU tensors of float, double, half or bfloat16. Sums do not depend on the number of threads.
const GroupNormSteps& cpu_group_norm_steps();

/// The steps for these tensors. Throws where weight or bias has another number of values than x has channels.
const GroupNormSteps& group_norm_steps(const at::Tensor& x, const std::optional<at::Tensor>& weight,
                                       const std::optional<at::Tensor>& bias, std::string_view layer,
                                       const comm::Domain& domain);

/// Tells profilers of a normalisation by these steps: "one pass, one collective, one pass". `copies`: the tensors had
/// to be prepared; `writes`: there is a second pass.
struct NormTrace {
  NormTrace(std::string_view layer, const char* direction, const GroupNormSteps& steps, int ranks, bool copies,
            bool writes)
      : trace(layer, direction, copies ? "a dense copy, " : "", steps.pass, ranks > 1 ? ", one collective" : "",
              writes ? ", " : "", writes ? steps.pass : "") {}

  CallTrace trace;
};

}  // namespace graticule::ops

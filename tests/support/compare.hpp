// A layer on a cut tensor against the same layer on the whole one.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "graticule/comm/collectives.hpp"
#include "graticule/comm/domain.hpp"
#include "graticule/rows/partition.hpp"
#include "support/threads.hpp"

namespace graticule::support {

/// Whether `actual` is `expected` up to `tolerance` times the largest value of `expected`.
inline ::testing::AssertionResult close(const at::Tensor& actual, const at::Tensor& expected, double tolerance) {
  if (!actual.defined() || actual.sizes() != expected.sizes() || actual.scalar_type() != expected.scalar_type()) {
    return ::testing::AssertionFailure() << "expected " << expected.sizes() << " of " << expected.scalar_type()
                                         << ", got "
                                         << (actual.defined() ? c10::str(actual.sizes(), " of ", actual.scalar_type())
                                                              : "nothing");
  }
  if (expected.numel() == 0) return ::testing::AssertionSuccess();
  const double error = (actual - expected).abs().max().item<double>();
  const double bound = tolerance * expected.abs().max().item<double>();
  // Not-a-number fails too.
  if (error <= bound) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "error " << error << " over " << bound;
}

inline at::Tensor shard(const at::Tensor& whole, int64_t dim, const std::vector<int64_t>& offsets, int rank) {
  return whole.narrow(dim, offsets[rank], offsets[rank + 1] - offsets[rank]).detach().clone();
}

/// What a layer gave, and the parameters whose gradients count.
struct Called {
  at::Tensor y;
  std::vector<at::Tensor> parameters;
};

/// The layer on the whole tensor (no domain) or on one rank's rows, with parameters of its own and equal values.
using Layer = std::function<Called(const at::Tensor& x, const std::optional<comm::Domain>& domain)>;

struct Comparison {
  std::string name{};
  int64_t dim = 2;
  std::vector<int64_t> in_offsets{};
  double tolerance = 1e-12;
};

/// Numbers between -1 and 1 that look random, the same at each call with the same arguments.
inline at::Tensor random_like(at::IntArrayRef sizes, const at::TensorOptions& options, int64_t seed) {
  const at::Tensor i = at::arange(c10::multiply_integers(sizes), at::kDouble);
  return at::sin((i + 1) * (12.9898 + static_cast<double>(seed))).mul(43758.5453).frac().view(sizes).to(options);
}

/// Expects of `layer`, on this rank of `domain`, that output, input gradient and the sum of the ranks' parameter
/// gradients are those of the uncut layer. Every rank must call, with the same whole tensor x.
inline void expect_uncut_on(const comm::Domain& domain, const Layer& layer, const at::Tensor& x, const Comparison& c) {
  const int rank = domain.rank();
  const std::string who =
      c10::str(c.name, ", offsets ", c10::IntArrayRef(c.in_offsets), ", rank ", rank, " of ", domain.size());
  const at::Tensor whole = x.detach().clone().requires_grad_();
  const Called uncut = layer(whole, std::nullopt);
  const at::Tensor g = random_like(uncut.y.sizes(), uncut.y.options().requires_grad(false), 7);
  uncut.y.backward(g);
  const rows::Partition output = rows::output_partition(rows::Partition(c.in_offsets), uncut.y.size(c.dim));

  const at::Tensor own = shard(x, c.dim, c.in_offsets, rank).requires_grad_();
  const Called cut = layer(own, domain);
  EXPECT_TRUE(close(cut.y.detach(), shard(uncut.y, c.dim, output.offsets(), rank), c.tolerance)) << "output of " << who;
  cut.y.backward(shard(g, c.dim, output.offsets(), rank));
  EXPECT_TRUE(close(own.grad(), shard(whole.grad(), c.dim, c.in_offsets, rank), c.tolerance))
      << "input gradient of " << who;
  for (size_t i = 0; i < uncut.parameters.size(); ++i) {
    at::Tensor sum = at::zeros_like(uncut.parameters[i]).detach();
    for (const at::Tensor& part : comm::all_gather(domain, cut.parameters.at(i).grad(), "compare")) sum.add_(part);
    EXPECT_TRUE(close(sum, uncut.parameters[i].grad(), c.tolerance)) << "gradient of parameter " << i << " of " << who;
  }
}

/// The same on as many threads as the cut has ranks.
inline void expect_uncut(const Layer& layer, const at::Tensor& x, const Comparison& c) {
  run_ranks(static_cast<int>(c.in_offsets.size()) - 1,
            [&](const comm::Domain& domain) { expect_uncut_on(domain, layer, x, c); });
}

}  // namespace graticule::support

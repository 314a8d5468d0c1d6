// Group normalisation of a cut tensor against at::group_norm.
#include "graticule/ops/group_norm.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "graticule/comm/exchange.hpp"
#include "support/compare.hpp"

namespace graticule::ops {
namespace {

using comm::Domain;
using support::Called;
using support::close;
using support::expect_uncut;
using support::random_like;
using support::run_ranks;
using support::shard;

using Ints = std::vector<int64_t>;

const Ints cuts[] = {{0, 7}, {0, 3, 7}, {0, 0, 7}, {0, 6, 6, 7}, {0, 1, 2, 3, 5, 7}};

TEST(GroupNorm, EqualsTheUncutOne) {
  for (int64_t dims = 1; dims <= 3; ++dims) {
    for (const int64_t groups : {1, 2, 6}) {
      for (const bool affine : {true, false}) {
        for (const Ints& offsets : cuts) {
          Ints sizes{2, 6, 7, 5, 4};
          sizes.resize(dims + 2);
          const auto layer = [&](const at::Tensor& t, const std::optional<Domain>& domain) -> Called {
            std::vector<at::Tensor> parameters;
            if (affine) {
              for (int i = 0; i < 2; ++i) parameters.push_back(random_like({6}, at::kDouble, i).requires_grad_());
            }
            const auto weight = affine ? std::optional(parameters[0]) : std::nullopt;
            const auto bias = affine ? std::optional(parameters[1]) : std::nullopt;
            if (!domain.has_value()) return {at::group_norm(t, groups, weight, bias, 1e-5), parameters};
            return {group_norm(t, groups, weight, bias, 1e-5, {offsets, {}, 2, domain->name(), "GroupNorm"}),
                    parameters};
          };
          expect_uncut(layer, random_like(sizes, at::kDouble, 3),
                       {.name = c10::str(dims, "-D, ", groups, " groups"), .in_offsets = offsets});
        }
      }
    }
  }
}

TEST(GroupNorm, KeepsItsDigitsFarFromZero) {
  const Ints offsets{0, 1, 4, 9};
  const at::Tensor x = random_like({1, 4, 9, 16}, at::kDouble, 1) + 1e6;
  const at::Tensor expected = at::group_norm(x, 2);
  run_ranks(3, [&](const Domain& domain) {
    const at::Tensor own = shard(x, 2, offsets, domain.rank());
    const at::Tensor y = group_norm(own, 2, std::nullopt, std::nullopt, 1e-5, {offsets, {}, 2, domain.name(), "GN"});
    EXPECT_TRUE(close(y, shard(expected, 2, offsets, domain.rank()), 1e-8));
  });
}

TEST(GroupNorm, TakesHalfTypesWithParametersOfEitherType) {
  const Ints offsets{0, 3, 9};
  for (const auto dtype : {at::kHalf, at::kBFloat16}) {
    for (const auto parameter : {dtype, at::kFloat}) {
      const at::Tensor x = random_like({2, 4, 9, 16}, dtype, 1);
      const at::Tensor weight = random_like({4}, parameter, 2);
      const at::Tensor expected = at::group_norm(x.to(at::kDouble), 2, weight.to(at::kDouble)).to(dtype);
      run_ranks(2, [&](const Domain& domain) {
        const at::Tensor own = shard(x, 2, offsets, domain.rank());
        const at::Tensor y = group_norm(own, 2, weight, std::nullopt, 1e-5, {offsets, {}, 2, domain.name(), "GN"});
        const double rounding = dtype == at::kHalf ? 1e-3 : 8e-3;
        EXPECT_TRUE(close(y, shard(expected, 2, offsets, domain.rank()), rounding));
      });
    }
  }
}

TEST(GroupNorm, TellsMetaShapesWithoutAMessage) {
  const uint64_t before = comm::bytes_sent();
  run_ranks(2, [](const Domain& domain) {
    const auto format = at::MemoryFormat::ChannelsLast;
    const at::Tensor x = at::empty({2, 4, 3, 5}, at::TensorOptions(at::kFloat).device(at::kMeta).memory_format(format));
    const at::Tensor y =
        group_norm(x, 2, std::nullopt, std::nullopt, 1e-5, {{0, 3, 6}, {}, 2, domain.name(), "GroupNorm"});
    EXPECT_EQ(y.sizes(), x.sizes());
    EXPECT_TRUE(y.is_contiguous(format));
  });
  EXPECT_EQ(comm::bytes_sent(), before);
}

}  // namespace
}  // namespace graticule::ops

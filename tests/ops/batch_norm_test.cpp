// Batch normalisation of a cut tensor against at::native_batch_norm and its backward.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <gtest/gtest.h>

#include "graticule/comm/domain.hpp"
#include "support/compare.hpp"

namespace graticule::ops {
namespace {

using comm::Domain;
using support::close;
using support::random_like;
using support::run_ranks;
using support::shard;

using Ints = std::vector<int64_t>;
using Optional = std::optional<at::Tensor>;

constexpr double eps = 1e-5;

auto forward(const at::Tensor& x, const Optional& weight, const Optional& bias, const Ints& offsets, int64_t dim,
             const Domain& domain) {
  using Schema = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
      const at::Tensor&, const Optional&, const Optional&, double, at::IntArrayRef, int64_t, c10::string_view,
      c10::string_view);
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("graticule::batch_norm_forward", "").typed<Schema>();
  return op.call(x, weight, bias, eps, offsets, dim, domain.name(), "batch_norm");
}

auto backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
              const Optional& weight, const Ints& offsets, int64_t dim, const Domain& domain) {
  using Schema = std::tuple<at::Tensor, at::Tensor, at::Tensor>(
      const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const Optional&, at::IntArrayRef,
      int64_t, c10::string_view, c10::string_view, std::array<bool, 3>);
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("graticule::batch_norm_backward", "").typed<Schema>();
  return op.call(grad, x, mean, rstd, weight, offsets, dim, domain.name(), "batch_norm", {true, true, true});
}

TEST(BatchNorm, EqualsTheUncutOne) {
  const Ints cuts[] = {{0, 7}, {0, 3, 7}, {0, 0, 7}, {0, 6, 6, 7}, {0, 1, 2, 3, 5, 7}};
  for (const int64_t dim : {0, 2, 3}) {
    for (const Ints& offsets : cuts) {
      for (const bool affine : {true, false}) {
        Ints sizes{3, 4, 5, 6};
        sizes[dim] = 7;
        const at::Tensor x = random_like(sizes, at::kDouble, 1) + 3;
        const at::Tensor g = random_like(sizes, at::kDouble, 2);
        const Optional weight = affine ? Optional(random_like({4}, at::kDouble, 3)) : std::nullopt;
        const Optional bias = affine ? Optional(random_like({4}, at::kDouble, 4)) : std::nullopt;
        const auto [y, mean, rstd] = at::native_batch_norm(x, weight, bias, {}, {}, true, 0.1, eps);
        const auto [dx, dw, db] =
            at::native_batch_norm_backward(g, x, weight, {}, {}, mean, rstd, true, eps, {true, true, true});
        run_ranks(static_cast<int>(offsets.size()) - 1, [&](const Domain& domain) {
          const auto own = [&](const at::Tensor& t) { return shard(t, dim, offsets, domain.rank()); };
          const auto [our_y, our_mean, our_rstd, deviations] = forward(own(x), weight, bias, offsets, dim, domain);
          EXPECT_TRUE(close(our_y, own(y), 1e-12));
          EXPECT_TRUE(close(our_mean, mean, 1e-12));
          EXPECT_TRUE(close(our_rstd, rstd, 1e-12));
          EXPECT_TRUE(close(deviations / (x.numel() / 4.0), at::var(x, at::IntArrayRef{0, 2, 3}, false), 1e-12));
          const auto [our_dx, our_dw, our_db] =
              backward(own(g), own(x), our_mean, our_rstd, weight, offsets, dim, domain);
          EXPECT_TRUE(close(our_dx, own(dx), 1e-12));
          EXPECT_TRUE(close(our_dw, dw, 1e-12));
          EXPECT_TRUE(close(our_db, db, 1e-12));
        });
      }
    }
  }
}

TEST(BatchNorm, RefusesAWrongCutOnEveryRank) {
  run_ranks(2, [&](const Domain& domain) {
    const at::Tensor x = at::ones({1, 4, 3, 3});
    EXPECT_THROW(forward(x, {}, {}, {0, 2, 4}, 1, domain), c10::Error);
    EXPECT_THROW(forward(domain.rank() == 0 ? x : x.narrow(2, 0, 2), {}, {}, {0, 3, 6}, 2, domain), c10::Error);
  });
}

}  // namespace
}  // namespace graticule::ops

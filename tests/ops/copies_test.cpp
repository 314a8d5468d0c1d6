// A cut layer makes no copy of its shard, neither to put a halo around it nor to lay it out anew.
#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>

#include "graticule/ops/group_norm.hpp"
#include "graticule/ops/interpolate.hpp"
#include "graticule/ops/layers.hpp"
#include "ops/convolution_path.hpp"
#include "support/compare.hpp"

namespace graticule::ops {
namespace {

using comm::Domain;
using support::random_like;
using support::run_ranks;
using support::shard;

using Ints = std::vector<int64_t>;

// Copies of at least `values` values that any thread makes while `body` runs.
int copies_of(int64_t values, const std::function<void()>& body) {
  static std::atomic<int> copies;
  static std::atomic<int64_t> least;
  copies = 0;
  least = values;
  const auto handle = at::addGlobalCallback(
      at::RecordFunctionCallback([](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
        if (std::string(function.name()) != "aten::copy_") return nullptr;
        const c10::IValue& target = function.inputs().at(0);
        if (target.isTensor() && target.toTensor().numel() >= least) ++copies;
        return nullptr;
      })
          .needsInputs(true)
          .scopes({at::RecordScope::FUNCTION}));
  body();
  at::removeCallback(handle);
  return copies;
}

struct Subject {
  std::string name;
  std::function<at::Tensor(const at::Tensor& x, const Cut& cut)> layer;
};

at::Tensor values(at::IntArrayRef sizes, int64_t seed) { return random_like(sizes, at::kFloat, seed); }

std::vector<Subject> subjects() {
  std::vector<Subject> result;
  for (const std::string mode : {"zeros", "reflect", "replicate", "circular"}) {
    result.push_back({"conv, " + mode, [mode](const at::Tensor& x, const Cut& cut) {
                        return conv(x, values({16, 16, 3, 3}, 2).requires_grad_(), std::nullopt,
                                    {{1, 1}, {1, 1}, {1, 1}, mode, {1, 1}, 1}, cut);
                      }});
  }
  result.push_back({"conv of stride 2", [](const at::Tensor& x, const Cut& cut) {
                      return conv(x, values({16, 16, 4, 4}, 2).requires_grad_(), std::nullopt,
                                  {{2, 2}, {1, 1}, {1, 1}, "zeros", {1, 1}, 1}, cut);
                    }});
  result.push_back({"transposed conv", [](const at::Tensor& x, const Cut& cut) {
                      return conv_transpose(x, values({16, 16, 4, 4}, 2).requires_grad_(), std::nullopt,
                                            {{2, 2}, {1, 1}, {0, 0}, {1, 1}, 1}, cut);
                    }});
  result.push_back({"periodic conv", [](const at::Tensor& x, const Cut& cut) {
                      return periodic_conv(x, values({16, 16, 3, 3}, 2).requires_grad_(), std::nullopt,
                                           {{1, 1}, {0, 0}, {0, 0}, "zeros", {1, 1}, 1}, {1, 1}, cut);
                    }});
  result.push_back({"group norm", [](const at::Tensor& x, const Cut& cut) {
                      return group_norm(x, 4, values({16}, 2).requires_grad_(), values({16}, 3).requires_grad_(), 1e-5,
                                        cut);
                    }});
  result.push_back({"interpolation", [](const at::Tensor& x, const Cut& cut) {
                      return interpolate(
                          x, {.size = {2 * cut.in_offsets.back() - 1, 256}, .mode = "bilinear", .align_corners = false},
                          cut);
                    }});
  return result;
}

// Copies of half a shard or more in a forward and a backward pass of `ranks` ranks with 160 rows each.
int copies_with(const Subject& subject, at::MemoryFormat format, int ranks) {
  constexpr int64_t rows = 160;
  Ints offsets{0};
  while (static_cast<int>(offsets.size()) <= ranks) offsets.push_back(offsets.back() + rows);
  const at::Tensor whole = values({1, 16, offsets.back(), 128}, 1).contiguous(format);
  std::vector<at::Tensor> gradients(ranks);
  std::vector<at::Tensor> inputs(ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    inputs[rank] = shard(whole, 2, offsets, rank).contiguous(format).requires_grad_();
  }
  // The first call tells what a gradient looks like.
  run_ranks(ranks, [&](const Domain& domain) {
    const int rank = domain.rank();
    const at::Tensor y = subject.layer(inputs[rank], {offsets, {}, 2, domain.name(), "layer"});
    EXPECT_TRUE(y.is_contiguous(format)) << subject.name;
    gradients[rank] = values(y.sizes(), 5).contiguous(format);
  });
  return copies_of(inputs[0].numel() / 2, [&]() {
    run_ranks(ranks, [&](const Domain& domain) {
      const int rank = domain.rank();
      subject.layer(inputs[rank], {offsets, {}, 2, domain.name(), "layer"}).backward(gradients[rank]);
      EXPECT_TRUE(inputs[rank].grad().is_contiguous(format)) << subject.name;
    });
  });
}

// Beside the copies that ATen's own kernels make: those of one rank, which has no halo.
TEST(Copies, NoneIsMadeOfAShard) {
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    for (const Subject& subject : subjects()) {
      const int copies = copies_with(subject, format, 3) - 3 * copies_with(subject, format, 1);
      EXPECT_EQ(copies, 0) << subject.name << (format == at::MemoryFormat::Contiguous ? "" : ", channels last");
      EXPECT_LE(copies_with(subject, format, 1), 1) << subject.name;
    }
  }
}

// Whole windows take four: windows of x and of grad, rows of x for the weight's gradient, and the input's gradient
// without what it has beside its own rows.
TEST(Copies, AreFourOfWholeWindows) {
  force_convolution_path(ConvolutionPath::whole_windows);
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    for (const Subject& subject : {subjects().at(0), subjects().at(4)}) {
      const int copies = copies_with(subject, format, 3);
      EXPECT_LE(copies, 3 * 4) << subject.name << (format == at::MemoryFormat::Contiguous ? "" : ", channels last");
    }
  }
  force_convolution_path(ConvolutionPath::automatic);
}

TEST(Copies, AreCounted) {
  const at::Tensor x = values({2, 16, 48, 64}, 1);
  EXPECT_EQ(copies_of(x.numel(), [&]() { (void)x.contiguous(at::MemoryFormat::ChannelsLast); }), 1);
}

}  // namespace
}  // namespace graticule::ops

// What a call's facts determine is worked out once: a later call finds it without taking memory.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <new>

#include "graticule/comm/domain.hpp"
#include "ops/convolution_arguments.hpp"
#include "ops/ready_convolution.hpp"
#include "ops/resampling_plan.hpp"
#include "ops/strip_plan.hpp"
#include "support/compare.hpp"

namespace {
thread_local int64_t allocations = 0;
}

// The library's allocations come here too: a program's operator goes before that of its libraries.
[[gnu::noinline]] void* operator new(size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace graticule::ops {
namespace {

using comm::Domain;
using support::random_like;
using support::run_ranks;

using Ints = std::vector<int64_t>;

int64_t allocations_of(const std::function<void()>& body) {
  const int64_t before = allocations;
  body();
  return allocations - before;
}

// Of the layer's name is too long to lie in a std::string itself.
const char* const layer = "DomainParallelConv2d of a warm call";

LayerCallView conv_call(const Domain& domain, const Ints& ones, const Ints& offsets) {
  return {LayerKind::conv, ones, ones, ones, "zeros", ones, 1, {}, offsets, {}, 2, domain.name(), layer};
}

TEST(WarmCalls, FindTheLayersConvolutionWithoutTakingMemory) {
  run_ranks(3, [](const Domain& domain) {
    const Ints ones{1, 1};
    const Ints offsets{0, 5, 9, 16};
    const at::Tensor x = random_like({1, 4, offsets[domain.rank() + 1] - offsets[domain.rank()], 8}, at::kFloat, 1);
    const at::Tensor weight = random_like({4, 4, 3, 3}, at::kFloat, 2);
    const LayerCallView call = conv_call(domain, ones, offsets);
    std::shared_ptr<const ReadyCall> ready;
    const auto find = [&] { ready = find_ready(x, weight, std::nullopt, call, domain); };
    EXPECT_GT(allocations_of(find), 0) << "the first call works it out";
    const auto first = ready;
    EXPECT_EQ(allocations_of(find), 0);
    EXPECT_EQ(ready, first);
    const at::Tensor wider = random_like({1, 4, x.size(2), 9}, at::kFloat, 1);
    EXPECT_NE(find_ready(wider, weight, std::nullopt, call, domain), first);
    EXPECT_NE(find_ready(x.to(at::kDouble), weight.to(at::kDouble), std::nullopt, call, domain), first);
  });
}

TEST(WarmCalls, FindTheirPlanWithoutTakingMemory) {
  run_ranks(3, [](const Domain& domain) {
    const Ints ones{1, 1};
    const Ints none{0, 0};
    const Ints offsets{0, 5, 9, 16};
    const at::Tensor x = random_like({1, 4, offsets[domain.rank() + 1] - offsets[domain.rank()], 8}, at::kFloat, 1);
    const at::Tensor weight = random_like({4, 4, 3, 3}, at::kFloat, 2);
    const ConvolutionArgumentsView view{ones,
                                        ones,
                                        ones,
                                        false,
                                        none,
                                        1,
                                        offsets,
                                        offsets,
                                        2,
                                        domain.name(),
                                        layer,
                                        rows::Boundary::zeros,
                                        rows::Boundary::zeros};
    std::shared_ptr<const StripPlan> plan;
    const auto find = [&] { plan = find_strip_plan(x, weight, *find_arguments(view), domain.rank()); };
    EXPECT_GT(allocations_of(find), 0) << "the first call works it out";
    const auto first = plan;
    EXPECT_EQ(allocations_of(find), 0);
    EXPECT_EQ(plan, first);
  });
}

TEST(WarmCalls, FindAnInterpolationsPlanWithoutTakingMemory) {
  const Ints in{0, 5, 9};
  const Ints out{0, 10, 18};
  ResamplingKey key;
  key.mode = "linear";
  const auto find = [&] { find_resampling_plan(key, in, out, 1, at::kCPU); };
  EXPECT_GT(allocations_of(find), 0) << "the first call works it out";
  EXPECT_EQ(allocations_of(find), 0);
}

TEST(WarmCalls, TakeNoMoreMemoryEachTime) {
  run_ranks(2, [](const Domain& domain) {
    const at::Tensor x = random_like({1, 4, 8, 8}, at::kFloat, 1 + domain.rank());
    const at::Tensor weight = random_like({4, 4, 3, 3}, at::kFloat, 2);
    const Cut cut{{0, 8, 16}, {}, 2, domain.name(), layer};
    const ConvArguments arguments{{1, 1}, {1, 1}, {1, 1}, "zeros", {1, 1}, 1};
    const auto call = [&] { conv(x, weight, std::nullopt, arguments, cut); };
    const int64_t cold = allocations_of(call);
    const int64_t second = allocations_of(call);
    EXPECT_LT(second, cold);
    for (int i = 0; i < 5; ++i) EXPECT_LE(allocations_of(call), second);
    RecordProperty("allocations_of_a_warm_call", static_cast<int>(second));
  });
}

}  // namespace
}  // namespace graticule::ops

// The convolution ops against at::convolution.
#include "graticule/ops/convolution.hpp"

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <mutex>
#include <set>

#include "graticule/comm/exchange.hpp"
#include "graticule/ops/layers.hpp"
#include "ops/convolution_path.hpp"
#include "support/compare.hpp"

namespace graticule::ops {
namespace {

using comm::Domain;
using rows::Partition;
using support::Called;
using support::close;
using support::expect_uncut;
using support::random_like;
using support::run_ranks;
using support::shard;

using Ints = std::vector<int64_t>;

struct Case {
  int64_t dims = 2;
  int64_t kernel = 3;
  int64_t stride = 1;
  int64_t padding = 1;
  int64_t dilation = 1;
  int64_t output_padding = 0;
  int64_t groups = 1;
  bool transposed = false;
  int64_t dim = 2;
  Ints offsets{0, 4, 7, 7, 13};

  [[nodiscard]] ConvolutionOptions options() const {
    ConvolutionOptions o{Ints(dims, stride), Ints(dims, padding), Ints(dims, dilation), transposed, Ints(dims), groups};
    if (transposed) o.output_padding.assign(dims, output_padding);
    return o;
  }
  [[nodiscard]] int ranks() const { return static_cast<int>(offsets.size()) - 1; }
  [[nodiscard]] at::Tensor input() const {
    Ints sizes{2, 4};
    for (int64_t d = 2; d < dims + 2; ++d) sizes.push_back(d == dim ? offsets.back() : dims == 3 ? 5 : 7);
    return random_like(sizes, at::kDouble, 1);
  }
  [[nodiscard]] at::Tensor weight() const {
    Ints sizes{transposed ? 4 : 2 * groups, transposed ? 2 : 4 / groups};
    sizes.resize(dims + 2, kernel);
    return random_like(sizes, at::kDouble, 2);
  }
  [[nodiscard]] at::Tensor bias() const { return random_like({2 * groups}, at::kDouble, 3); }
  [[nodiscard]] std::string text() const {
    return c10::str(dims, "-D, kernel ", kernel, ", stride ", stride, ", padding ", padding, ", dilation ", dilation,
                    ", output padding ", output_padding, ", groups ", groups, transposed ? ", transposed" : "",
                    ", dim ", dim, ", offsets ", c10::IntArrayRef(offsets));
  }
};

at::Tensor uncut(const Case& c) {
  const ConvolutionOptions o = c.options();
  return at::convolution(c.input(), c.weight(), c.bias(), o.stride, o.padding, o.dilation, o.transposed,
                         o.output_padding, o.groups);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> uncut_backward(const Case& c, const at::Tensor& g) {
  const ConvolutionOptions o = c.options();
  return at::convolution_backward(g, c.input(), c.weight(), Ints{2 * c.groups}, o.stride, o.padding, o.dilation,
                                  o.transposed, o.output_padding, o.groups, {true, true, true});
}

// Expects that a meta tensor tells the sizes and the format that the real one has, without a message.
void expect_shape(const at::Tensor& y, const at::Tensor& x, const Case& c, const Placement& placement, int rank) {
  const at::Tensor meta = convolution_shape(x.to(at::kMeta), c.weight().to(at::kMeta), c.options(), placement, rank);
  EXPECT_EQ(meta.sizes(), y.sizes()) << c.text();
  EXPECT_EQ(meta.strides(), y.strides()) << c.text();
  EXPECT_EQ(meta.scalar_type(), y.scalar_type());
  EXPECT_TRUE(meta.is_meta());
}

void check(const Case& c, const Ints& out_offsets = {}) {
  const at::Tensor y = uncut(c);
  const Partition input(c.offsets);
  const Partition output = out_offsets.empty() ? rows::output_partition(input, y.size(c.dim)) : Partition(out_offsets);
  const at::Tensor g = random_like(y.sizes(), at::kDouble, 4);
  const auto [grad_x, grad_weight, grad_bias] = uncut_backward(c, g);
  std::vector<at::Tensor> weights(c.ranks());
  std::vector<at::Tensor> biases(c.ranks());
  run_ranks(c.ranks(), [&](const Domain& domain) {
    const int rank = domain.rank();
    const Placement placement{input, output, c.dim, domain.name(), "convolution"};
    const at::Tensor x = shard(c.input(), c.dim, c.offsets, rank);
    const auto [own_y, halo] = convolution_with_halo(x, c.weight(), c.bias(), c.options(), placement);
    EXPECT_TRUE(close(own_y, shard(y, c.dim, output.offsets(), rank), 1e-12)) << "output, rank " << rank << c.text();
    expect_shape(own_y, x, c, placement, rank);
    const auto own_g = shard(g, c.dim, output.offsets(), rank);
    const auto [own_x, own_weight, own_bias] =
        convolution_backward(own_g, x, halo, c.weight(), c.options(), placement, {true, true, true});
    EXPECT_TRUE(close(own_x, shard(grad_x, c.dim, c.offsets, rank), 1e-12)) << "rank " << rank << c.text();
    weights[rank] = own_weight;
    biases[rank] = own_bias;
  });
  EXPECT_TRUE(close(at::stack(weights).sum(0), grad_weight, 1e-12)) << c.text();
  EXPECT_TRUE(close(at::stack(biases).sum(0), grad_bias, 1e-12)) << c.text();
}

TEST(Convolution, EqualsTheUncutOneOverAGridOfOptions) {
  int cases = 0;
  for (const int64_t kernel : {1, 2, 3, 6}) {
    for (const int64_t stride : {1, 2, 5}) {
      for (const int64_t padding : {0, 1, 4}) {
        for (const int64_t dilation : {1, 2}) {
          if (dilation * (kernel - 1) + 1 > 7 + 2 * padding) continue;
          check({.kernel = kernel, .stride = stride, .padding = padding, .dilation = dilation});
          ++cases;
        }
      }
    }
  }
  EXPECT_GE(cases, 60);
}

TEST(Convolution, TransposedEqualsTheUncutOneOverAGridOfOptions) {
  int cases = 0;
  for (const int64_t kernel : {1, 2, 3, 6}) {
    for (const int64_t stride : {1, 2, 5}) {
      for (const int64_t padding : {0, 1, 3}) {
        for (const int64_t output_padding : {0, 1}) {
          for (const int64_t dilation : {1, 2}) {
            if (output_padding >= std::max(stride, dilation)) continue;
            if (6 * stride - 2 * padding + dilation * (kernel - 1) + 1 + output_padding < 1) continue;
            check({.kernel = kernel,
                   .stride = stride,
                   .padding = padding,
                   .dilation = dilation,
                   .output_padding = output_padding,
                   .transposed = true});
            ++cases;
          }
        }
      }
    }
  }
  EXPECT_GE(cases, 100);
}

TEST(Convolution, TakesAnyDimensionsGroupsAndCuts) {
  for (const bool transposed : {false, true}) {
    for (int64_t dims = 1; dims <= 3; ++dims) {
      for (int64_t dim = 2; dim < dims + 2; ++dim) {
        for (const Ints& offsets : {Ints{0, 9}, Ints{0, 1, 9}, Ints{0, 0, 5, 9}, Ints{0, 1, 2, 3, 3, 4, 5}}) {
          check({.dims = dims, .stride = 2, .transposed = transposed, .dim = dim, .offsets = offsets});
        }
      }
    }
    for (const int64_t groups : {2, 4}) check({.kernel = 4, .stride = 2, .groups = groups, .transposed = transposed});
  }
}

TEST(Convolution, TakesAnyCutOfTheOutput) {
  const Case c{.offsets = {0, 4, 9}};
  for (const Ints& output : {Ints{0, 0, 9}, Ints{0, 9, 9}, Ints{0, 2, 9}, Ints{0, 7, 9}}) check(c, output);
  const Case t{.kernel = 4, .stride = 2, .transposed = true, .offsets = {0, 4, 9}};
  for (const Ints& output : {Ints{0, 0, 18}, Ints{0, 18, 18}, Ints{0, 5, 18}}) check(t, output);
}

TEST(Convolution, KeepsChannelsLast) {
  run_ranks(2, [](const Domain& domain) {
    const Case c{.offsets = {0, 6, 13}};
    const at::Tensor x = shard(c.input(), 2, c.offsets, domain.rank()).contiguous(at::MemoryFormat::ChannelsLast);
    const Placement placement{Partition(c.offsets), Partition(c.offsets), 2, domain.name(), "convolution"};
    const at::Tensor y = convolution(x, c.weight(), c.bias(), c.options(), placement);
    EXPECT_TRUE(y.is_contiguous(at::MemoryFormat::ChannelsLast));
    EXPECT_TRUE(close(y, shard(uncut(c), 2, c.offsets, domain.rank()), 1e-12));
    expect_shape(y, x, c, placement, domain.rank());
  });
}

TEST(Convolution, GivesTheGradientsThatAreWanted) {
  run_ranks(2, [](const Domain& domain) {
    const Case c{.offsets = {0, 6, 13}};
    const at::Tensor x = shard(c.input(), 2, c.offsets, domain.rank());
    const Placement placement{Partition(c.offsets), Partition(c.offsets), 2, domain.name(), "convolution"};
    const at::Tensor g = random_like({2, 2, x.size(2), 7}, at::kDouble, 1);
    const ConvolutionHalo halo = convolution_with_halo(x, c.weight(), c.bias(), c.options(), placement).second;
    for (int mask = 0; mask < 8; ++mask) {
      const std::array<bool, 3> wanted{(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0};
      const auto [grad_x, grad_weight, grad_bias] =
          convolution_backward(g, x, halo, c.weight(), c.options(), placement, wanted);
      EXPECT_EQ(grad_x.defined(), wanted[0]);
      EXPECT_EQ(grad_weight.defined(), wanted[1]);
      EXPECT_EQ(grad_bias.defined(), wanted[2]);
    }
  });
}

// float32 on one thread: every row has the bits of the uncut one, forward and input gradient.
TEST(Convolution, HasTheBitsOfTheUncutOneInFloat32) {
  for (const int64_t kernel : {3, 4}) {
    const Ints offsets{0, 11, 20, 37};
    const at::Tensor x = random_like({1, 8, 37, 64}, at::kFloat, 1);
    const at::Tensor weight = random_like({8, 8, kernel, kernel}, at::kFloat, 2);
    const ConvolutionOptions o{{kernel - 2, 1}, {1, 1}, {1, 1}, false, {0, 0}, 1};
    const at::Tensor y =
        at::convolution(x, weight, std::nullopt, o.stride, o.padding, o.dilation, false, o.output_padding, 1);
    const at::Tensor g = random_like(y.sizes(), at::kFloat, 3);
    const at::Tensor grad_x = std::get<0>(at::convolution_backward(
        g, x, weight, std::nullopt, o.stride, o.padding, o.dilation, false, o.output_padding, 1, {true, false, false}));
    run_ranks(3, [&](const Domain& domain) {
      const int rank = domain.rank();
      const Partition output = rows::output_partition(Partition(offsets), y.size(2));
      const Placement placement{Partition(offsets), output, 2, domain.name(), "convolution"};
      const at::Tensor own = shard(x, 2, offsets, rank);
      EXPECT_TRUE(at::equal(convolution(own, weight, std::nullopt, o, placement), shard(y, 2, output.offsets(), rank)));
      const at::Tensor own_g = shard(g, 2, output.offsets(), rank);
      const auto gradients = convolution_backward(own_g, own, {}, weight, o, placement, {true, false, false});
      EXPECT_TRUE(at::equal(std::get<0>(gradients), shard(grad_x, 2, offsets, rank)));
    });
  }
}

// The names of the events that profilers see while `body` runs.
std::map<std::string, int> events_of(const std::function<void()>& body) {
  static std::mutex mutex;
  static std::map<std::string, int> events;
  events.clear();
  const auto handle = at::addGlobalCallback(
      at::RecordFunctionCallback([](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
        const std::lock_guard lock(mutex);
        ++events[function.name()];
        return nullptr;
      }).scopes({at::RecordScope::FUNCTION}));
  body();
  at::removeCallback(handle);
  return events;
}

struct Forced {
  explicit Forced(ConvolutionPath path) { force_convolution_path(path); }
  ~Forced() { force_convolution_path(ConvolutionPath::automatic); }
};

TEST(Convolution, IsExactOnEachPathAndATraceTellsWhich) {
  const Ints even{0, 8, 16, 24};
  const std::vector<Case> lined_up{{.kernel = 3, .offsets = even},
                                   {.kernel = 4, .stride = 2, .offsets = even},
                                   {.kernel = 3, .stride = 2, .offsets = even},
                                   {.kernel = 1, .padding = 0, .offsets = even},
                                   {.kernel = 4, .stride = 4, .padding = 0, .offsets = even},
                                   {.kernel = 3, .padding = 2, .dilation = 2, .offsets = even},
                                   {.kernel = 4, .stride = 2, .transposed = true, .offsets = even},
                                   {.dims = 3, .kernel = 3, .dim = 3, .offsets = even}};
  for (const Case& c : lined_up) {
    for (const auto& [path, expected] : {std::pair{ConvolutionPath::in_place, "in place"},
                                         std::pair{ConvolutionPath::whole_windows, "whole windows: as asked for"}}) {
      const Forced forced(path);
      const auto events = events_of([&c]() { check(c); });
      for (const std::string direction : {"forward", "backward"}) {
        const auto found = events.find("convolution " + direction + ": " + expected);
        ASSERT_NE(found, events.end()) << direction << " " << expected << ": " << c.text();
        EXPECT_EQ(found->second, c.ranks()) << c.text();
      }
    }
  }
}

TEST(Convolution, TakesWholeWindowsWhereRowsDoNotLineUp) {
  const Forced forced(ConvolutionPath::in_place);
  const auto events = events_of([]() { check({.kernel = 3, .stride = 2, .offsets = {0, 7, 15, 24}}); });
  EXPECT_EQ(events.count("convolution forward: whole windows: they do not line up with the shard"), 1U);
}

// Both ways to count a weight's gradient must not meet: where one rank needs the one, all take it.
TEST(Convolution, IsExactWhereRanksMixPaths) {
  const Forced forced(ConvolutionPath::in_place);
  const std::string in_place = "convolution backward: in place";
  const std::string whole = "convolution backward: whole windows: they do not line up with the shard";
  const std::vector<std::pair<Case, Ints>> mixed{
      {{.kernel = 3, .stride = 2, .offsets = {0, 8, 14, 24}}, {}},
      {{.kernel = 4, .stride = 2, .offsets = {0, 8, 16, 23, 32}}, {}},
      {{.kernel = 4, .stride = 2, .offsets = {0, 8, 8, 16, 23}}, {}},
      {{.kernel = 3, .offsets = {0, 8, 16, 24}}, {0, 8, 15, 24}},
      {{.kernel = 3, .offsets = {0, 8, 16, 24, 24}}, {0, 8, 16, 21, 24}},
      {{.kernel = 5, .padding = 4, .dilation = 2, .offsets = {0, 10, 20, 30}}, {0, 10, 21, 30}},
      // Rows that no window takes.
      {{.kernel = 1, .stride = 3, .padding = 0, .offsets = {0, 4, 10, 16}}, {0, 2, 4, 6}},
      {{.kernel = 2, .stride = 4, .padding = 1, .offsets = {0, 6, 13, 21}}, {0, 1, 4, 6}},
      {{.dims = 3, .kernel = 3, .stride = 2, .dim = 4, .offsets = {0, 8, 14, 24}}, {}},
      {{.dims = 1, .kernel = 3, .stride = 2, .groups = 2, .offsets = {0, 8, 14, 24}}, {}}};
  for (const auto& [c, out_offsets] : mixed) {
    auto events = events_of([&c = c, &out_offsets = out_offsets]() { check(c, out_offsets); });
    EXPECT_GE(events[in_place], 1) << c.text();
    EXPECT_GE(events[whole], 1) << c.text();
  }
}

TEST(Convolution, IsExactWhereRanksMixPathsAndBordersAreNotZeros) {
  const Forced forced(ConvolutionPath::in_place);
  const at::Tensor x = random_like({2, 3, 24, 7}, at::kDouble, 1);
  const at::Tensor weight = random_like({4, 3, 3, 3}, at::kDouble, 2);
  for (const std::string mode : {"reflect", "replicate"}) {
    for (const Ints& offsets : {Ints{0, 8, 14, 24}, Ints{0, 6, 12, 16, 24}, Ints{0, 6, 6, 12, 24}}) {
      const auto layer = [&](const at::Tensor& t, const std::optional<Domain>& domain) -> Called {
        const at::Tensor w = weight.clone().requires_grad_();
        if (domain.has_value()) {
          const ConvArguments a{{2, 1}, {1, 1}, {1, 1}, mode, {1, 1}, 1};
          return {conv(t, w, std::nullopt, a, {offsets, {}, 2, domain->name(), "Conv"}), {w}};
        }
        return {at::conv2d(at::pad(t, {1, 1, 1, 1}, mode), w, {}, {2, 1}), {w}};
      };
      auto events = events_of([&]() { expect_uncut(layer, x, {.name = "padding " + mode, .in_offsets = offsets}); });
      EXPECT_GE(events["Conv backward: in place"], 1) << mode << c10::IntArrayRef(offsets);
      EXPECT_GE(events["Conv backward: whole windows: they do not line up with the shard"], 1)
          << mode << c10::IntArrayRef(offsets);
    }
  }
}

// Rows of grad that ATen is given for a weight's gradient while `body` runs, by any thread.
std::multiset<int64_t> rows_for_weights(const std::function<void()>& body) {
  static std::mutex mutex;
  static std::multiset<int64_t> rows;
  rows.clear();
  const auto handle = at::addGlobalCallback(
      at::RecordFunctionCallback([](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
        if (std::string(function.name()) != "aten::convolution_backward") return nullptr;
        const bool weight = function.inputs().at(10).toBoolList().get(1);
        const std::lock_guard lock(mutex);
        if (weight) rows.insert(function.inputs().at(0).toTensor().size(2));
        return nullptr;
      })
          .needsInputs(true)
          .scopes({at::RecordScope::FUNCTION}));
  body();
  at::removeCallback(handle);
  return rows;
}

TEST(Convolution, TakesOwnRowsAloneForTheWeightOfWholeWindows) {
  const Case c{.kernel = 6, .stride = 2, .padding = 2, .offsets = {0, 8, 20, 32}};
  const Forced forced(ConvolutionPath::whole_windows);
  const at::Tensor g = random_like({2, 2, 16, 3}, at::kDouble, 4);
  const Ints outputs{0, 4, 10, 16};
  std::vector<at::Tensor> inputs(3);
  std::vector<ConvolutionHalo> halos(3);
  const auto placement = [&](const Domain& domain) {
    return Placement{Partition(c.offsets), Partition(outputs), 2, domain.name(), "convolution"};
  };
  run_ranks(3, [&](const Domain& domain) {
    const int rank = domain.rank();
    inputs[rank] = shard(c.input(), 2, c.offsets, rank);
    halos[rank] = convolution_with_halo(inputs[rank], c.weight(), {}, c.options(), placement(domain)).second;
    // Two rows beyond an end of the shard, of which those beyond the grid are zeros, and kept nowhere.
    EXPECT_EQ(halos[rank].before.size(2), rank == 0 ? 0 : 2);
    EXPECT_EQ(halos[rank].after.size(2), rank == 2 ? 0 : 2);
  });
  const std::multiset<int64_t> rows = rows_for_weights([&]() {
    run_ranks(3, [&](const Domain& domain) {
      const int rank = domain.rank();
      convolution_backward(shard(g, 2, outputs, rank), inputs[rank], halos[rank], c.weight(), c.options(),
                           placement(domain), {true, true, true});
    });
  });
  EXPECT_EQ(rows, (std::multiset<int64_t>{4, 6, 6}));
}

// The layer functions, through autograd: padding modes and unequal padding.
TEST(Conv, PadsAsATenDoes) {
  const at::Tensor x = random_like({2, 3, 11, 6}, at::kDouble, 1);
  const at::Tensor weight = random_like({4, 3, 3, 3}, at::kDouble, 2);
  const at::Tensor bias = random_like({4}, at::kDouble, 3);
  for (const std::string mode : {"zeros", "reflect", "replicate", "circular"}) {
    for (const Ints& offsets : {Ints{0, 5, 11}, Ints{0, 1, 1, 2, 11}, Ints{0, 10, 11, 11}}) {
      for (const auto& [before, after] : {std::pair<int64_t, int64_t>{1, 1}, {0, 2}, {3, 1}}) {
        const auto layer = [&](const at::Tensor& t, const std::optional<Domain>& domain) -> Called {
          const at::Tensor w = weight.clone().requires_grad_();
          const at::Tensor b = bias.clone().requires_grad_();
          if (domain.has_value()) {
            const ConvArguments a{{2, 1}, {before, before}, {after, after}, mode, {1, 1}, 1};
            return {conv(t, w, b, a, {offsets, {}, 2, domain->name(), "Conv"}), {w, b}};
          }
          const at::Tensor padded = at::pad(t, {before, after, before, after}, mode == "zeros" ? "constant" : mode);
          return {at::conv2d(padded, w, b, {2, 1}), {w, b}};
        };
        // ATen gives rows to the default cut of the unpadded input.
        expect_uncut(layer, x, {.name = "padding " + mode, .in_offsets = offsets});
      }
    }
  }
}

TEST(Conv, PeriodicPadsLongitudesAndReflectsLatitudes) {
  const at::Tensor x = random_like({2, 3, 11, 6}, at::kDouble, 1);
  const at::Tensor weight = random_like({4, 3, 5, 5}, at::kDouble, 2);
  for (const Ints& offsets : {Ints{0, 5, 11}, Ints{0, 1, 1, 2, 11}, Ints{0, 10, 11, 11}}) {
    const auto layer = [&](const at::Tensor& t, const std::optional<Domain>& domain) -> Called {
      const at::Tensor w = weight.clone().requires_grad_();
      if (domain.has_value()) {
        const ConvArguments a{{1, 1}, {0, 0}, {0, 0}, "zeros", {1, 1}, 1};
        return {periodic_conv(t, w, std::nullopt, a, {2, 2}, {offsets, {}, 2, domain->name(), "PeriodicConv"}), {w}};
      }
      return {at::conv2d(at::pad(at::pad(t, {2, 2, 0, 0}, "circular"), {0, 0, 2, 2}, "reflect"), w), {w}};
    };
    expect_uncut(layer, x, {.name = "periodic", .in_offsets = offsets});
  }
}

TEST(Conv, TellsMetaShapesWithoutAMessage) {
  const uint64_t before = comm::bytes_sent();
  run_ranks(2, [](const Domain& domain) {
    const at::Tensor x = at::empty({2, 3, 5 + domain.rank(), 6}, at::TensorOptions(at::kFloat).device(at::kMeta));
    const at::Tensor weight = at::empty({4, 3, 3, 3}, x.options());
    const Cut cut{{0, 5, 11}, {}, 2, domain.name(), "Conv"};
    // ATen's reflection and replication have no shapes for meta tensors without Python.
    for (const std::string mode : {"zeros", "circular"}) {
      const ConvArguments a{{1, 1}, {1, 1}, {1, 1}, mode, {1, 1}, 1};
      EXPECT_EQ(conv(x, weight, std::nullopt, a, cut).sizes(), (Ints{2, 4, 5 + domain.rank(), 6}));
    }
    const ConvTransposeArguments a{{2, 2}, {1, 1}, {1, 1}, {1, 1}, 1};
    const at::Tensor transposed = at::empty({3, 4, 3, 3}, x.options());
    EXPECT_EQ(conv_transpose(x, transposed, std::nullopt, a, cut).sizes(), (Ints{2, 4, 11, 12}));
  });
  EXPECT_EQ(comm::bytes_sent(), before);
}

}  // namespace
}  // namespace graticule::ops

// What cannot be done is refused by every rank before any message is sent, with a text that says why.
#include "support/errors.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>

#include "graticule/comm/exchange.hpp"
#include "graticule/ops/group_norm.hpp"
#include "graticule/ops/interpolate.hpp"
#include "graticule/ops/layers.hpp"
#include "graticule/ops/row_exchange.hpp"
#include "support/threads.hpp"

namespace graticule::ops {
namespace {

using comm::Domain;
using support::contains;
using support::error_of;
using support::run_ranks;

// Calls on two ranks; each must fail with a text that holds `part`, the layer and the rank, and nothing may be sent.
void expect_refused(const std::string& part, const std::function<void(Cut)>& call) {
  const uint64_t before = comm::bytes_sent();
  run_ranks(2, [&](const Domain& domain) {
    const std::string error = error_of([&] { call({{0, 4, 8}, {}, 2, domain.name(), "Layer"}); });
    EXPECT_TRUE(contains(error, part));
    EXPECT_TRUE(contains(error, "Layer: "));
    EXPECT_TRUE(contains(error, c10::str("(rank ", domain.rank(), " of 2)")));
  });
  EXPECT_EQ(comm::bytes_sent(), before) << part;
}

at::Tensor image(at::ScalarType dtype = at::kFloat) { return at::ones({1, 4, 4, 6}, dtype); }
at::Tensor kernel(at::ScalarType dtype = at::kFloat) { return at::ones({4, 4, 3, 3}, dtype); }

ConvArguments plain() { return {{1, 1}, {1, 1}, {1, 1}, "zeros", {1, 1}, 1}; }

void expect_conv_refused(const std::string& part, const std::function<void(ConvArguments&)>& change) {
  expect_refused(part, [&](const Cut& cut) {
    ConvArguments a = plain();
    change(a);
    conv(image(), kernel(), std::nullopt, a, cut);
  });
}

TEST(OpErrors, ConvolutionOptions) {
  expect_conv_refused("2 values of stride, got 1", [](ConvArguments& a) { a.stride = {1}; });
  expect_conv_refused("every stride to be at least 1, got [1, 0]", [](ConvArguments& a) { a.stride = {1, 0}; });
  expect_conv_refused("every dilation to be at least 1", [](ConvArguments& a) { a.dilation = {0, 1}; });
  expect_conv_refused("every padding to be at least 0", [](ConvArguments& a) { a.pad_before = {-1, 1}; });
  expect_conv_refused("every padding to be at least 0", [](ConvArguments& a) { a.pad_after = {1, -1}; });
  expect_conv_refused("got mirror", [](ConvArguments& a) { a.padding_mode = "mirror"; });
  expect_conv_refused("3 groups do not divide", [](ConvArguments& a) { a.groups = 3; });
  expect_conv_refused("an input of 8 channels, got 4", [](ConvArguments& a) { a.groups = 2; });
  expect_conv_refused("larger than the padded input", [](ConvArguments& a) { a.dilation = {9, 1}; });
  for (const std::string mode : {"reflect", "circular"}) {
    expect_conv_refused("", [&](ConvArguments& a) { a.padding_mode = mode, a.pad_before = a.pad_after = {9, 1}; });
  }
}

void expect_tensors_refused(const std::string& part, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias = std::nullopt) {
  expect_refused(part, [&](const Cut& cut) { conv(x, weight, bias, plain(), cut); });
}

TEST(OpErrors, ConvolutionTensors) {
  expect_tensors_refused("a real floating-point tensor of 16, 32 or 64 bits, got Int", image(at::kInt),
                         kernel(at::kInt));
  expect_tensors_refused("the weight's dtype Double, got Float", image(), kernel(at::kDouble));
  expect_tensors_refused("at least one value in dimension 3", at::ones({1, 4, 4, 0}), kernel());
  expect_tensors_refused("at least one value in dimension 3", image(), at::ones({4, 4, 3, 0}));
  expect_tensors_refused("at least one output channel", image(), at::ones({0, 4, 3, 3}));
  expect_tensors_refused("an input of 4 channels, got 3", at::ones({1, 3, 4, 6}), kernel());
  expect_tensors_refused("3 to 5 dimensions", at::ones({4, 4}), kernel());
  expect_tensors_refused("an input of 4 dimensions (batched), got 5", at::ones({1, 4, 4, 6, 2}), kernel());
  expect_tensors_refused("a bias of 4 values, got [3]", image(), kernel(), at::ones({3}));
  expect_tensors_refused("a bias of the weight's dtype", image(), kernel(), at::ones({4}, at::kDouble));
}

void expect_cut_refused(const std::string& part, const std::function<void(Cut&)>& change) {
  expect_refused(part, [&](Cut cut) {
    change(cut);
    conv(image(), kernel(), std::nullopt, plain(), cut);
  });
}

TEST(OpErrors, Cuts) {
  expect_cut_refused("the cut dimension to be one of 2 to 3", [](Cut& cut) { cut.dim = 1; });
  expect_cut_refused("the cut dimension to be one of 2 to 3", [](Cut& cut) { cut.dim = 4; });
  expect_cut_refused("3 offsets of the input's rows, got 2", [](Cut& cut) { cut.in_offsets = {0, 8}; });
  expect_cut_refused("input rows", [](Cut& cut) { cut.in_offsets = {0, 9, 8}; });
  expect_cut_refused("the whole input has no rows", [](Cut& cut) { cut.in_offsets = {0, 0, 0}; });
  expect_cut_refused("offsets of the output's 8 rows", [](Cut& cut) { cut.out_offsets = {0, 4, 9}; });
  expect_cut_refused("offsets of the output's 8 rows", [](Cut& cut) { cut.out_offsets = {0, 8}; });
  expect_cut_refused("output rows", [](Cut& cut) { cut.out_offsets = {0, 9, 8}; });
}

TEST(OpErrors, AGroupThatNobodyMade) {
  EXPECT_THROW(conv(image(), kernel(), std::nullopt, plain(), {{0, 4}, {}, 2, "nobody", "Layer"}), c10::Error);
}

TEST(OpErrors, TransposedConvolution) {
  const auto refused = [](const std::string& part, const std::function<void(ConvTransposeArguments&)>& change) {
    expect_refused(part, [&](const Cut& cut) {
      ConvTransposeArguments a{{2, 2}, {1, 1}, {0, 0}, {1, 1}, 1};
      change(a);
      conv_transpose(image(), kernel(), std::nullopt, a, cut);
    });
  };
  refused("smaller than stride or dilation", [](ConvTransposeArguments& a) { a.output_padding = {2, 0}; });
  refused("every output_padding to be at least 0", [](ConvTransposeArguments& a) { a.output_padding = {-1, 0}; });
  refused("2 values of padding, got 3", [](ConvTransposeArguments& a) { a.padding = {1, 1, 1}; });
  refused("too small", [](ConvTransposeArguments& a) { a.padding = {9, 1}; });
  refused("3 groups do not divide", [](ConvTransposeArguments& a) { a.groups = 3; });
}

TEST(OpErrors, PeriodicConvolution) {
  const auto refused = [](const std::string& part, const at::Tensor& x, int64_t dim, const std::vector<int64_t>& pad) {
    expect_refused(part, [&](Cut cut) {
      cut.dim = dim;
      const ConvArguments a{{1, 1}, {0, 0}, {0, 0}, "zeros", {1, 1}, 1};
      periodic_conv(x, kernel(), std::nullopt, a, pad, cut);
    });
  };
  refused("cut along H", image(), 3, {1, 1});
  const auto of_its_convolution = [](const std::string& part, const ConvArguments& a) {
    expect_refused(part, [&](const Cut& cut) { periodic_conv(image(), kernel(), std::nullopt, a, {1, 1}, cut); });
  };
  for (const int64_t padding : {0, 1}) {
    const std::vector<int64_t> pads(2, padding);
    of_its_convolution("every stride to be at least 1", {{0, 1}, pads, pads, "zeros", {1, 1}, 1});
    of_its_convolution("every dilation to be at least 1", {{1, 1}, pads, pads, "zeros", {0, 1}, 1});
    of_its_convolution("2 values of stride, got 1", {{1}, pads, pads, "zeros", {1, 1}, 1});
  }
  refused("2 values of padding, got 1", image(), 2, {1});
  refused("every padding to be at least 0", image(), 2, {-1, 1});
  refused("", image(), 2, {8, 1});
  refused("", image(), 2, {1, 7});
}

TEST(OpErrors, GroupNorm) {
  const auto refused = [](const std::string& part, const at::Tensor& x, int64_t groups,
                          const std::optional<at::Tensor>& weight, const std::vector<int64_t>& offsets = {0, 4, 8}) {
    expect_refused(part, [&](Cut cut) {
      cut.in_offsets = offsets;
      group_norm(x, groups, weight, std::nullopt, 1e-5, cut);
    });
  };
  refused("3 groups do not divide 4 channels", image(), 3, std::nullopt);
  refused("0 groups do not divide", image(), 0, std::nullopt);
  refused("a weight of 4 values, got [3]", image(), 2, at::ones({3}));
  refused("a weight of the input's dtype Float, got Double", image(), 2, at::ones({4}, at::kDouble));
  refused("more than one value to normalise", at::ones({1, 4, 1}), 4, std::nullopt, {0, 1, 1});
  refused("a real floating-point tensor", image(at::kLong), 2, std::nullopt);
  refused("of 16, 32 or 64 bits", image().to(at::kFloat8_e5m2), 2, std::nullopt);
  expect_refused("a bias of the weight's dtype BFloat16, got Float", [](const Cut& cut) {
    group_norm(image(at::kBFloat16), 2, at::ones({4}, at::kBFloat16), at::ones({4}), 1e-5, cut);
  });
  refused("expected 4 rows in dimension 2, got 5", at::ones({1, 4, 5, 6}), 2, std::nullopt);
}

TEST(OpErrors, Interpolation) {
  const auto refused = [](const std::string& part, const InterpolateArguments& a) {
    expect_refused(part, [&](const Cut& cut) { interpolate(image(), a, cut); });
  };
  refused("got lanczos", {.size = {8, 8}, .mode = "lanczos"});
  refused("mode trilinear takes no tensor of 4 dimensions", {.size = {8, 8}, .mode = "trilinear"});
  refused("mode nearest takes no align_corners", {.size = {8, 8}, .align_corners = true});
  refused("antialias goes with modes bilinear and bicubic", {.size = {8, 8}, .antialias = true});
  refused("one of size and scale_factor, got neither", {.mode = "bilinear"});
  refused("one of size and scale_factor, got both", {.size = {8, 8}, .scale_factor = {1, 1}, .mode = "bilinear"});
  refused("a size of 2 values, got 1", {.size = {8}, .mode = "bilinear"});
  refused("a scale_factor of 2 values, got 3", {.scale_factor = {1, 1, 1}, .mode = "bilinear"});
  refused("recompute_scale_factor goes with scale_factor", {.size = {8, 8}, .recompute_scale_factor = true});
  refused("interpolation of 8 to 0", {.size = {0, 8}, .mode = "bilinear"});
  expect_refused("at least one channel", [](const Cut& cut) {
    interpolate(at::ones({1, 0, 4, 6}), {.size = {8, 8}, .mode = "bilinear"}, cut);
  });
  refused("wrong in PyTorch itself", {.size = {8, 1}, .mode = "bilinear", .antialias = true});
}

TEST(OpErrors, GatherRows) {
  const auto refused = [](const std::string& part, const std::function<void(RowExchange&)>& change) {
    const uint64_t before = comm::bytes_sent();
    run_ranks(2, [&](const Domain& domain) {
      RowExchange e{{0, 4, 8}, {0, 3}, {5, 8}, "none", 2, -1, true, false, domain.name()};
      change(e);
      const std::string error = error_of([&] { gather_rows(image(), e); });
      EXPECT_TRUE(contains(error, part));
      EXPECT_TRUE(contains(error, "gather_rows: "));
    });
    EXPECT_EQ(comm::bytes_sent(), before) << part;
  };
  refused("unknown boundary \"walls\"", [](RowExchange& e) { e.boundary = "walls"; });
  refused("lies beyond the grid, and no boundary is given", [](RowExchange& e) { e.ends = {5, 9}; });
  refused("2 begins and 3 ends", [](RowExchange& e) { e.ends = {5, 8, 8}; });
  refused("the cut dimension 7", [](RowExchange& e) { e.dim = 7; });
  refused("the dimension of the longitudes", [](RowExchange& e) { e.boundary = "pole"; });
  refused("first offset is 0, got 1", [](RowExchange& e) { e.offsets = {1, 4, 8}; });
}

TEST(OpErrors, ARowTooFewOnOneRankIsAnErrorOnBoth) {
  run_ranks(2, [](const Domain& domain) {
    const at::Tensor x = at::ones({1, 4, domain.rank() == 0 ? 4 : 3, 6});
    const auto call = [&] { conv(x, kernel(), std::nullopt, plain(), {{0, 4, 8}, {}, 2, domain.name(), "Layer"}); };
    EXPECT_TRUE(contains(error_of(call), domain.rank() == 1 ? "expected 4 rows" : "rank 1 failed"));
  });
}

TEST(OpErrors, TheGradientOfTheGradientIsRefused) {
  run_ranks(2, [](const Domain& domain) {
    const Cut cut{{0, 4, 8}, {}, 2, domain.name(), "Layer"};
    const at::Tensor x = image().requires_grad_();
    const at::Tensor w = kernel().requires_grad_();
    const at::Tensor g = at::ones({1, 4, 4, 6}).requires_grad_();
    const at::Tensor y = conv(x, w, std::nullopt, plain(), cut);
    const auto twice = [&](const at::Tensor& of) { of.backward(g, /*retain_graph=*/true, /*create_graph=*/true); };
    EXPECT_TRUE(contains(error_of([&] { twice(y); }), "the gradient of the gradient is not available"));
    const at::Tensor z = group_norm(x, 2, std::nullopt, std::nullopt, 1e-5, cut);
    EXPECT_TRUE(contains(error_of([&] { twice(z); }), "the gradient of the gradient is not available"));
  });
}

}  // namespace
}  // namespace graticule::ops

// Interpolation of a cut tensor against ATen's.
#include "graticule/ops/interpolate.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "graticule/comm/exchange.hpp"
#include "ops/resample.hpp"
#include "support/compare.hpp"

namespace graticule::ops {
namespace {

using comm::Domain;
using support::Called;
using support::expect_uncut;
using support::random_like;
using support::run_ranks;

using Ints = std::vector<int64_t>;
using Scales = std::optional<at::ArrayRef<double>>;

at::Tensor uncut(const at::Tensor& x, const InterpolateArguments& a) {
  const bool by_size = !a.size.empty();
  const at::OptionalIntArrayRef size = by_size ? at::OptionalIntArrayRef(a.size) : std::nullopt;
  const Scales scales = by_size ? std::nullopt : Scales(a.scale_factor);
  const bool align = a.align_corners.value_or(false);
  if (a.mode == "linear") return at::upsample_linear1d(x, size, align, scales);
  if (a.mode == "trilinear") return at::upsample_trilinear3d(x, size, align, scales);
  if (a.mode == "bilinear") {
    return a.antialias ? at::_upsample_bilinear2d_aa(x, size, align, scales)
                       : at::upsample_bilinear2d(x, size, align, scales);
  }
  if (a.mode == "bicubic") {
    return a.antialias ? at::_upsample_bicubic2d_aa(x, size, align, scales)
                       : at::upsample_bicubic2d(x, size, align, scales);
  }
  if (a.mode == "area") return at::adaptive_avg_pool2d(x, a.size);
  return a.mode == "nearest" ? at::upsample_nearest2d(x, size, scales) : at::_upsample_nearest_exact2d(x, size, scales);
}

void check(const at::Tensor& x, const InterpolateArguments& a, int64_t dim, const Ints& offsets,
           double tolerance = 1e-12) {
  const auto layer = [&](const at::Tensor& t, const std::optional<Domain>& domain) -> Called {
    if (!domain.has_value()) return {uncut(t, a), {}};
    return {interpolate(t, a, {offsets, {}, dim, domain->name(), "Interpolate"}), {}};
  };
  const std::string to = a.size.empty() ? c10::str("by ", a.scale_factor) : c10::str("to ", a.size);
  expect_uncut(layer, x,
               {.name = c10::str(a.mode, " ", to), .dim = dim, .in_offsets = offsets, .tolerance = tolerance});
}

const Ints cuts[] = {{0, 4, 9}, {0, 0, 9}, {0, 8, 8, 9}, {0, 1, 3, 4, 5, 9}};

TEST(Interpolate, EqualsATenInTwoDimensions) {
  const at::Tensor x = random_like({2, 3, 9, 6}, at::kDouble, 1);
  for (const std::string mode : {"nearest", "nearest-exact", "bilinear", "bicubic", "area"}) {
    for (const Ints& size : {Ints{18, 12}, Ints{13, 7}, Ints{5, 4}, Ints{9, 6}, Ints{1, 3}, Ints{31, 6}}) {
      for (const Ints& offsets : cuts) check(x, {.size = size, .mode = mode}, 2, offsets);
      check(x, {.size = size, .mode = mode}, 3, {0, 2, 2, 6});
    }
  }
}

TEST(Interpolate, EqualsATenWithEveryOption) {
  const at::Tensor x = random_like({2, 3, 9, 6}, at::kDouble, 1);
  for (const Ints& offsets : cuts) {
    for (const std::string mode : {"bilinear", "bicubic"}) {
      for (const Ints& size : {Ints{14, 9}, Ints{4, 3}}) {
        check(x, {.size = size, .mode = mode, .align_corners = true}, 2, offsets);
        check(x, {.size = size, .mode = mode, .antialias = true}, 2, offsets);
      }
      check(x, {.scale_factor = {1.7, 0.6}, .mode = mode}, 2, offsets);
    }
    for (const std::string mode : {"nearest", "nearest-exact"}) {
      check(x, {.scale_factor = {1.7, 2.3}, .mode = mode}, 2, offsets);
    }
  }
}

TEST(Interpolate, EqualsATenInOneAndThreeDimensions) {
  for (const Ints& offsets : cuts) {
    check(random_like({2, 3, 9}, at::kDouble, 1), {.size = {14}, .mode = "linear"}, 2, offsets);
    check(random_like({2, 3, 9}, at::kDouble, 1), {.scale_factor = {0.7}, .mode = "linear"}, 2, offsets);
    for (int64_t dim = 2; dim < 5; ++dim) {
      Ints sizes{2, 3, 4, 4, 4};
      sizes[dim] = 9;
      check(random_like(sizes, at::kDouble, 1), {.size = {7, 5, 6}, .mode = "trilinear"}, dim, offsets);
    }
  }
}

TEST(Interpolate, TellsMetaShapesWithoutAMessage) {
  const uint64_t before = comm::bytes_sent();
  run_ranks(2, [](const Domain& domain) {
    const at::Tensor x = at::empty({2, 3, 4 + domain.rank(), 6}, at::TensorOptions(at::kFloat).device(at::kMeta));
    const Cut cut{{0, 4, 9}, {}, 2, domain.name(), "Interpolate"};
    const at::Tensor y = interpolate(x, {.size = {18, 12}, .mode = "bilinear"}, cut);
    EXPECT_EQ(y.sizes(), (Ints{2, 3, 9, 12}));
    EXPECT_TRUE(y.is_meta());
  });
  EXPECT_EQ(comm::bytes_sent(), before);
}

// Every way in which a plane may be resampled, against ATen.
TEST(Interpolate, EqualsATenInBothLayoutsAndTypes) {
  const Ints one_to_four[] = {{0, 9}, {0, 4, 9}, {0, 0, 9}, {0, 8, 8, 9}, {0, 1, 4, 4, 9}};
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    for (const at::MemoryFormat format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      for (const int64_t channels : {2, 19}) {
        const at::Tensor x = random_like({2, channels, 9, 7}, type, 1).contiguous(format);
        for (const Ints& offsets : one_to_four) {
          for (const InterpolateArguments& arguments :
               std::vector<InterpolateArguments>{{.size = {17, 15}, .mode = "bilinear"},
                                                 {.size = {5, 4}, .mode = "bilinear"},
                                                 {.size = {4, 15}, .mode = "bilinear", .align_corners = true},
                                                 {.size = {19, 3}, .mode = "bilinear", .antialias = true},
                                                 {.scale_factor = {2.0, 2.0}, .mode = "bilinear"},
                                                 {.scale_factor = {1.0, 0.7}, .mode = "bicubic"},
                                                 {.size = {14, 16}, .mode = "bicubic", .align_corners = true},
                                                 {.size = {3, 5}, .mode = "bicubic", .antialias = true},
                                                 {.scale_factor = {2.0, 2.0}, .mode = "nearest"},
                                                 {.size = {4, 3}, .mode = "nearest-exact"},
                                                 {.size = {4, 12}, .mode = "area"}}) {
            check(x, arguments, 2, offsets, type == at::kFloat ? 2e-6 : 1e-12);
          }
        }
      }
    }
  }
}

TEST(Interpolate, TakesATensWeightsInFloat) {
  const at::Tensor tall = random_like({1, 2, 401, 3}, at::kFloat, 1);
  const at::Tensor wide = random_like({1, 2, 4, 401}, at::kFloat, 1);
  for (const std::string mode : {"bilinear", "bicubic"}) {
    check(tall, {.size = {733, 5}, .mode = mode}, 2, {0, 200, 401}, 1e-6);
    check(wide, {.size = {5, 733}, .mode = mode}, 2, {0, 2, 4}, 1e-6);
    check(wide, {.size = {5, 733}, .mode = mode}, 3, {0, 200, 401}, 1e-6);
  }
}

// Rows of few values are resampled as lines; more of them one by one.
TEST(Interpolate, EqualsATenAlongEveryDimension) {
  for (const Ints& offsets : cuts) {
    for (const int64_t columns : {1, 3, 40}) {
      const at::Tensor x = random_like({2, 3, 9, columns}, at::kDouble, 1);
      for (const int64_t rows : {4, 9, 21}) {
        check(x, {.size = {rows, columns}, .mode = "bicubic"}, 2, offsets);
        check(x.transpose(2, 3).contiguous(), {.size = {columns, rows}, .mode = "area"}, 3, offsets);
        check(x.transpose(2, 3).contiguous(at::MemoryFormat::ChannelsLast),
              {.size = {2 * columns, rows}, .mode = "nearest"}, 3, offsets);
      }
    }
  }
}

// A plan's rows and columns as matrices, applied to the whole tensor.
at::Tensor by_matrices(const at::Tensor& t, const ResampleTable& rows, const ResampleTable& columns) {
  const auto matrix = [](const ResampleTable& table, int64_t sources) {
    at::Tensor result = at::zeros({table.size(), sources}, at::kDouble);
    for (int64_t i = 0; i < table.size(); ++i) {
      for (int64_t j = table.starts[i]; j < table.starts[i + 1]; ++j) {
        result[i][table.sources[j]] += table.weights.wide[j];
      }
    }
    return result;
  };
  return at::matmul(at::matmul(matrix(rows, t.size(2)), t), matrix(columns, t.size(3)).t());
}

TEST(Interpolate, GivesTheSameInEveryOrder) {
  using Order = ResampleOrder;
  const at::Tensor whole = random_like({2, 9, 9, 7}, at::kDouble, 1);
  for (const Ints& offsets : cuts) {
    run_ranks(static_cast<int>(offsets.size()) - 1, [&](const Domain& domain) {
      for (const std::string mode : {"nearest", "linear", "cubic", "linear-antialias"}) {
        for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{17, 15}, {4, 3}, {4, 15}}) {
          const ResamplingKey key{mode, false, {}, Across{7, columns, {}}, false, 4, 2, true};
          const Ints upper = rows::Partition::balanced(rows, domain.size()).offsets();
          const auto plan = find_resampling_plan(key, offsets, upper, domain.rank(), at::kCPU);
          const at::Tensor expected = by_matrices(whole, plan->forward.rows, plan->forward.columns);
          const bool few = mode == "nearest" || mode == "linear";
          for (const Order order : {Order::rows_first, Order::columns_first, Order::at_once}) {
            for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
              const bool lines = format == at::MemoryFormat::Contiguous;
              if (order == Order::at_once && (lines || !few)) continue;
              Resampling forced = plan->forward;
              (lines ? forced.line_order : forced.pixel_order) = order;
              const at::Tensor x = support::shard(whole, 2, offsets, domain.rank()).contiguous(format);
              const at::Tensor y = resample_on_cpu(x, forced, format, {2, domain, mode});
              EXPECT_TRUE(y.is_contiguous(format));
              EXPECT_TRUE(support::close(y, expected, 1e-13)) << mode << " " << static_cast<int>(order) << lines;
            }
          }
        }
      }
    });
  }
}

// What other devices do, on this one.
TEST(Interpolate, GivesTheSameBySelection) {
  const at::Tensor whole = random_like({2, 3, 9, 6}, at::kDouble, 1);
  for (const Ints& offsets : cuts) {
    run_ranks(static_cast<int>(offsets.size()) - 1, [&](const Domain& domain) {
      for (const std::string mode : {"nearest", "linear", "cubic", "cubic-antialias", "area"}) {
        for (const int64_t rows : {4, 17}) {
          const Ints upper = rows::Partition::balanced(rows, domain.size()).offsets();
          const ResamplingKey key{mode, false, {}, {}, false, 4, 2, true};
          const auto plan = find_resampling_plan(key, offsets, upper, domain.rank(), at::kCPU);
          const ResampleCall call{2, domain, mode};
          const at::Tensor x = support::shard(whole, 2, offsets, domain.rank());
          const at::Tensor y = resample_on_cpu(x, plan->forward, at::MemoryFormat::Contiguous, call);
          EXPECT_TRUE(support::close(resample_by_selection(x, plan->forward, call), y, 1e-13)) << mode << rows;
          const at::Tensor back = resample_on_cpu(y, plan->adjoint, at::MemoryFormat::Contiguous, call);
          EXPECT_TRUE(support::close(resample_by_selection(y, plan->adjoint, call), back, 1e-13)) << mode << rows;
        }
      }
    });
  }
}

TEST(Interpolate, KeepsTheMemoryFormatWhateverTheGradients) {
  run_ranks(2, [](const Domain& domain) {
    const auto format = at::MemoryFormat::ChannelsLast;
    const at::Tensor whole = random_like({2, 5, 8, 6}, at::kDouble, 1);
    const Ints offsets{0, 3, 8};
    at::Tensor x = support::shard(whole, 2, offsets, domain.rank()).contiguous(format).requires_grad_();
    at::Tensor same = x.detach().clone().requires_grad_();
    const Cut cut{offsets, {}, 2, domain.name(), "Interpolate"};
    const InterpolateArguments arguments{.size = {16, 12}, .mode = "bilinear"};
    const at::Tensor y = interpolate(x, arguments, cut);
    const at::Tensor g = random_like(y.sizes(), at::kDouble, 2);
    y.backward(g);
    interpolate(same, arguments, cut).backward(g.contiguous(format));
    EXPECT_TRUE(y.is_contiguous(format));
    EXPECT_TRUE(x.grad().is_contiguous(format));
    EXPECT_TRUE(at::equal(x.grad(), same.grad()));
  });
}

TEST(Interpolate, SendsOnlyTheRowsThatOthersNeed) {
  const uint64_t before = comm::bytes_sent();
  run_ranks(2, [](const Domain& domain) {
    const at::Tensor x = at::ones({1, 3, 8, 6}, at::kFloat);
    interpolate(x, {.size = {32, 12}, .mode = "bilinear"}, {{0, 8, 16}, {}, 2, domain.name(), "Interpolate"});
  });
  EXPECT_EQ(comm::bytes_sent() - before, sizeof(float) * 2 * 3 * 6);
}

TEST(Interpolate, TellsTheShapeOfAPlane) {
  run_ranks(2, [](const Domain& domain) {
    const auto op = [&](const char* name, const at::Tensor& t) {
      return c10::Dispatcher::singleton()
          .findSchemaOrThrow(name, "")
          .typed<at::Tensor(const at::Tensor&, c10::string_view, bool, std::optional<double>, at::IntArrayRef,
                            std::optional<double>, bool, at::IntArrayRef, at::IntArrayRef, c10::string_view,
                            c10::string_view)>()
          .call(t, "linear", false, std::nullopt, {6, 12}, std::nullopt, true, {0, 3, 8}, {0, 8, 16}, domain.name(),
                "Plane");
    };
    const int64_t rows = domain.rank() == 0 ? 3 : 5;
    const at::Tensor x = at::ones({2, 5, rows, 6}, at::kFloat);
    const at::Tensor y = op("graticule::resample_plane", x);
    const at::Tensor g = op("graticule::resample_plane_adjoint", y);
    const at::Tensor meta_y = op("graticule::resample_plane", x.to(at::kMeta));
    const at::Tensor meta_g = op("graticule::resample_plane_adjoint", meta_y);
    EXPECT_EQ(y.sizes(), (Ints{2, 5, 8, 12}));
    EXPECT_EQ(meta_y.sizes(), y.sizes());
    EXPECT_EQ(meta_y.strides(), y.strides());
    EXPECT_EQ(meta_g.sizes(), x.sizes());
    EXPECT_EQ(meta_g.strides(), g.strides());
    EXPECT_THROW(op("graticule::resample_plane", at::ones({2, 5, rows, 7}, at::kFloat)), c10::ValueError);
  });
}

}  // namespace
}  // namespace graticule::ops

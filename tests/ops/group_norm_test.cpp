// Group normalisation of a cut tensor against at::group_norm.
#include "graticule/ops/group_norm.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "graticule/comm/exchange.hpp"
#include "ops/group_norm_loops.hpp"
#include "ops/group_norm_steps.hpp"
#include "ops/half_loops.hpp"
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

// One way to call the layer.
struct Call {
  at::ScalarType dtype;
  Ints sizes;
  int64_t groups;
  bool affine;
  at::MemoryFormat format;
  Ints offsets;
  at::ScalarType parameter_dtype;
  at::MemoryFormat grad_format;
};

std::ostream& operator<<(std::ostream& out, const Call& c) {
  return out << c.dtype << c10::IntArrayRef(c.sizes) << ' ' << c.groups << " groups, affine " << c.affine << ", format "
             << c.format << ", grad " << c.grad_format << ", offsets " << c10::IntArrayRef(c.offsets);
}

double rounding(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 2e-6 : dtype == at::kHalf ? 1e-3 : 8e-3;
}

// The serial layer in float64 on the values that the call rounds to.
struct Reference {
  explicit Reference(const Call& c)
      : x(random_like(c.sizes, c.dtype, 3)),
        grad(random_like(c.sizes, c.dtype, 4)),
        weight(random_like({c.sizes[1]}, c.parameter_dtype, 5)),
        bias(random_like({c.sizes[1]}, c.parameter_dtype, 6)) {
    const auto leaf = [](const at::Tensor& t) { return t.to(at::kDouble).detach().clone().requires_grad_(); };
    const at::Tensor whole = leaf(x);
    const at::Tensor w = leaf(weight);
    const at::Tensor b = leaf(bias);
    y = c.affine ? at::group_norm(whole, c.groups, w, b) : at::group_norm(whole, c.groups);
    y.backward(grad.to(at::kDouble));
    grad_x = whole.grad();
    grad_weight = w.grad();
    grad_bias = b.grad();
  }
  at::Tensor x, grad, weight, bias, y, grad_x, grad_weight, grad_bias;
};

void expect_serial_on(const Domain& domain, const Call& c, const Reference& serial) {
  const auto own = [&](const at::Tensor& t) { return shard(t, 2, c.offsets, domain.rank()); };
  const at::Tensor x = own(serial.x).contiguous(c.format).requires_grad_();
  const at::Tensor weight = serial.weight.clone().requires_grad_();
  const at::Tensor bias = serial.bias.clone().requires_grad_();
  const auto given = [&](const at::Tensor& t) { return c.affine ? std::optional(t) : std::nullopt; };
  const at::Tensor y =
      group_norm(x, c.groups, given(weight), given(bias), 1e-5, {c.offsets, {}, 2, domain.name(), "GroupNorm"});
  y.backward(own(serial.grad).contiguous(c.grad_format));

  EXPECT_TRUE(y.numel() == 0 || y.is_contiguous(c.format)) << c;
  EXPECT_TRUE(x.numel() == 0 || x.grad().is_contiguous(c.format)) << c;
  EXPECT_TRUE(close(y.detach(), own(serial.y).to(c.dtype), rounding(c.dtype))) << "output, " << c;
  EXPECT_TRUE(close(x.grad(), own(serial.grad_x).to(c.dtype), rounding(c.dtype))) << "input gradient, " << c;
  if (!c.affine) return;
  for (const auto& [parameter, expected] : {std::pair(weight, serial.grad_weight), std::pair(bias, serial.grad_bias)}) {
    EXPECT_EQ(parameter.grad().scalar_type(), c.parameter_dtype);
    at::Tensor sum = at::zeros_like(expected);
    at::Tensor magnitude = at::zeros_like(expected);
    for (const at::Tensor& part : comm::all_gather(domain, parameter.grad(), "compare")) {
      sum.add_(part);
      magnitude.add_(part.abs());
    }
    // Each rank rounds its part, and parts may cancel.
    const double bound = rounding(c.parameter_dtype) * magnitude.max().item<double>();
    EXPECT_LE((sum - expected).abs().max().item<double>(), bound) << "parameter gradient, " << c;
  }
}

void expect_serial(const Call& c) {
  const Reference serial(c);
  run_ranks(static_cast<int>(c.offsets.size()) - 1, [&](const Domain& domain) { expect_serial_on(domain, c, serial); });
}

std::vector<at::MemoryFormat> formats(size_t dims) {
  if (dims == 4) return {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast};
  if (dims == 5) return {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast3d};
  return {at::MemoryFormat::Contiguous};
}

const at::ScalarType all_types[] = {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16};

// Channels and groups on either side of every width at which pixels with
// channels innermost are taken together.
TEST(GroupNorm, EqualsTheSerialLayerInEveryTypeAndLayout) {
  const std::pair<int64_t, int64_t> channels[] = {{1, 1}, {3, 3}, {7, 7}, {6, 2}, {12, 3}, {80, 5}, {72, 1}, {520, 4}};
  const Ints spatial[] = {{9, 1, 1}, {9, 23, 5}, {9, 8, 2}};
  for (const at::ScalarType dtype : all_types) {
    for (const auto& [count, groups] : channels) {
      for (const Ints& extent : spatial) {
        for (size_t dims = 3; dims <= 5; ++dims) {
          Ints sizes{2, count};
          sizes.insert(sizes.end(), extent.begin(), extent.begin() + static_cast<std::ptrdiff_t>(dims) - 2);
          for (const at::MemoryFormat format : formats(dims)) {
            const bool affine = (count + static_cast<int64_t>(dims)) % 2 == 0;
            expect_serial({dtype, sizes, groups, affine, format, {0, 2, 2, 9}, dtype, format});
          }
        }
      }
    }
  }
}

TEST(GroupNorm, TakesGradientsOfAnyLayoutAndFloatParameters) {
  for (const at::ScalarType dtype : all_types) {
    for (size_t dims = 4; dims <= 5; ++dims) {
      Ints sizes{2, 6, 9, 5, 3};
      sizes.resize(dims);
      for (const at::MemoryFormat format : formats(dims)) {
        for (const at::MemoryFormat grad_format : formats(dims)) {
          const auto parameters = dtype == at::kDouble ? at::kDouble : at::kFloat;
          expect_serial({dtype, sizes, 3, true, format, {0, 4, 9}, parameters, grad_format});
        }
      }
    }
  }
}

TEST(GroupNorm, AddsUpManyBlocks) {
  for (const at::ScalarType dtype : all_types) {
    for (const at::MemoryFormat format : formats(4)) {
      expect_serial({dtype, {1, 4, 301, 300}, 2, true, format, {0, 80, 301}, dtype, format});
      expect_serial({dtype, {2, 64, 65, 67}, 4, true, format, {0, 64, 65}, dtype, format});
    }
  }
}

// Neither the input nor the gradient has a place in memory for each value.
TEST(GroupNorm, TakesTensorsThatOverlapThemselves) {
  const Ints offsets{0, 3, 7};
  const at::Tensor values = random_like({2, 1, 7, 5}, at::kDouble, 1);
  const at::Tensor slopes = random_like({2, 6, 7}, at::kDouble, 2);
  const at::Tensor whole = values.clone().requires_grad_();
  const at::Tensor expected = at::group_norm(whole.expand({2, 6, 7, 5}), 2);
  (expected.sum(3) * slopes).sum().backward();
  run_ranks(2, [&](const Domain& domain) {
    const at::Tensor own = shard(values, 2, offsets, domain.rank()).requires_grad_();
    const at::Tensor y = group_norm(own.expand({2, 6, own.size(2), 5}), 2, std::nullopt, std::nullopt, 1e-5,
                                    {offsets, {}, 2, domain.name(), "GN"});
    (y.sum(3) * shard(slopes, 2, offsets, domain.rank())).sum().backward();
    EXPECT_TRUE(close(y.detach(), shard(expected, 2, offsets, domain.rank()), 1e-12));
    EXPECT_TRUE(close(own.grad(), shard(whole.grad(), 2, offsets, domain.rank()), 1e-12));
  });
}

double worst(const at::Tensor& y, const at::Tensor& expected) {
  return (y.to(at::kDouble) - expected).abs().max().item<double>();
}

// Far from zero, with means that jump from row to row: never further off than
// the serial layer.
TEST(GroupNorm, IsNoLessAccurateThanTheSerialLayer) {
  const Ints offsets{0, 30, 61};
  for (const double jump : {0.0, 1.0, 1e3}) {
    for (const double distance : {0.0, 1e2, 1e4}) {
      const at::Tensor rows = random_like({1, 1, 61, 1}, at::kFloat, 2) * jump + distance;
      for (const at::MemoryFormat format : formats(4)) {
        const at::Tensor x = (random_like({1, 8, 61, 90}, at::kFloat, 1) + rows).contiguous(format);
        const at::Tensor expected = at::group_norm(x.to(at::kDouble), 2);
        const double serial = worst(at::group_norm(x, 2), expected);
        run_ranks(2, [&](const Domain& domain) {
          const at::Tensor own = shard(x, 2, offsets, domain.rank());
          const at::Tensor y =
              group_norm(own, 2, std::nullopt, std::nullopt, 1e-5, {offsets, {}, 2, domain.name(), "GN"});
          const double few_ulps = 4 * std::numeric_limits<float>::epsilon();
          EXPECT_LE(worst(y, shard(expected, 2, offsets, domain.rank())), std::max(serial, few_ulps))
              << jump << ' ' << distance << ' ' << format;
        });
      }
    }
  }
}

TEST(GroupNorm, KeepsNotANumberInItsGroup) {
  const Ints offsets{0, 3, 9};
  for (const at::MemoryFormat format : formats(4)) {
    const at::Tensor x = random_like({1, 4, 9, 16}, at::kFloat, 1).contiguous(format);
    x[0][1][8][3] = std::numeric_limits<float>::quiet_NaN();
    run_ranks(2, [&](const Domain& domain) {
      const at::Tensor own = shard(x, 2, offsets, domain.rank());
      const at::Tensor y = group_norm(own, 2, std::nullopt, std::nullopt, 1e-5, {offsets, {}, 2, domain.name(), "GN"});
      EXPECT_TRUE(y.narrow(1, 0, 2).isnan().all().item<bool>());
      EXPECT_TRUE(y.narrow(1, 2, 2).isfinite().all().item<bool>());
    });
  }
}

struct Steps {
  at::Tensor moments, y, mean, rstd, channel_sums, weight_grad, bias_grad, group_sums, grad_x;
  [[nodiscard]] std::vector<at::Tensor> all() const {
    return {moments, y, mean, rstd, channel_sums, weight_grad, bias_grad, group_sums, grad_x};
  }
};

// As if of two ranks that hold the same rows.
Steps run_steps(const GroupNormSteps& steps, const at::Tensor& x, const at::Tensor& grad, int64_t groups) {
  const at::Tensor weight = random_like({x.size(1)}, x.options(), 8);
  const at::Tensor bias = random_like({x.size(1)}, x.options(), 9);
  const auto count = static_cast<double>(x.numel() / x.size(0) / groups);
  Steps s;
  s.moments = steps.moments(x, groups);
  std::tie(s.y, s.mean, s.rstd) = steps.normalise(x, weight, bias, {s.moments, s.moments}, {count, count}, 1e-5);
  s.channel_sums = steps.channel_sums(grad, x, s.mean);
  std::tie(s.weight_grad, s.bias_grad) =
      steps.parameter_gradients(s.channel_sums, s.rstd, x.scalar_type(), {true, true});
  s.group_sums = steps.group_sums(s.channel_sums, weight, groups);
  s.grad_x = steps.input_gradient(grad, x, s.mean, s.rstd, weight, {s.group_sums, s.group_sums}, 2 * count);
  return s;
}

void expect_as_with_aten(at::IntArrayRef shape, at::ArrayRef<at::ScalarType> types) {
  for (const at::ScalarType dtype : types) {
    for (const at::MemoryFormat format : formats(4)) {
      const at::Tensor x = random_like(shape, dtype, 1).contiguous(format);
      const at::Tensor grad = random_like(shape, dtype, 2).contiguous(format);
      const std::vector<at::Tensor> loops = run_steps(cpu_group_norm_steps(), x, grad, 3).all();
      const std::vector<at::Tensor> aten = run_steps(aten_group_norm_steps(), x, grad, 3).all();
      for (size_t i = 0; i < loops.size(); ++i) {
        EXPECT_TRUE(close(loops[i], aten[i], std::max(rounding(dtype), 1e-12))) << dtype << ' ' << format << ' ' << i;
        EXPECT_EQ(loops[i].strides(), aten[i].strides()) << dtype << ' ' << format << ' ' << i;
      }
    }
  }
}

TEST(GroupNormSteps, AreTheSameWithAtenAndInLoops) { expect_as_with_aten({2, 12, 9, 14}, all_types); }

// 8 MiB and more are written past the caches.
TEST(GroupNormSteps, AreTheSameWithAtenWhereResultsAreLarge) {
  expect_as_with_aten({2, 12, 301, 307}, {at::kDouble, at::kFloat});
}

TEST(GroupNormSteps, DoNotDependOnTheNumberOfThreads) {
  const int before = at::get_num_threads();
  for (const auto& [format, rows] :
       {std::pair(at::MemoryFormat::Contiguous, 90), std::pair(at::MemoryFormat::Contiguous, 307),
        std::pair(at::MemoryFormat::ChannelsLast, 90), std::pair(at::MemoryFormat::ChannelsLast, 307)}) {
    const at::Tensor x = random_like({2, 12, rows, 301}, at::kFloat, 1).contiguous(format);
    const at::Tensor grad = random_like({2, 12, rows, 301}, at::kFloat, 2).contiguous(format);
    at::set_num_threads(1);
    const std::vector<at::Tensor> one = run_steps(cpu_group_norm_steps(), x, grad, 3).all();
    for (const int threads : {2, 3, 7}) {
      at::set_num_threads(threads);
      const std::vector<at::Tensor> many = run_steps(cpu_group_norm_steps(), x, grad, 3).all();
      for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(at::equal(one[i], many[i])) << threads << ' ' << i;
    }
  }
  at::set_num_threads(before);
}

// Every result of a set of loops on a sheet of rows x width values, and on the same values as a line, in one list.
template <class T>
std::vector<double> run_loops(const GroupNormLoops<T>& loops, int64_t rows, int64_t width, bool past_caches) {
  const auto values = [](int64_t count, int64_t seed) {
    const at::Tensor t = random_like({count}, c10::CppTypeToScalarType<T>::value, seed);
    return std::vector<T>(t.const_data_ptr<T>(), t.const_data_ptr<T>() + count);
  };
  const int64_t n = rows * width;
  const auto x = values(n, 1);
  const auto g = values(n, 2);
  const auto a = values(width, 3);
  const auto b = values(width, 4);
  const auto c = values(width, 5);
  const auto d = values(width, 6);
  std::vector<double> results;
  const auto keep = [&](const auto& more) { results.insert(results.end(), more.begin(), more.end()); };

  const Moments moments = loops.line_moments(x.data(), n, a[0]);
  keep(std::vector<double>{moments.count, moments.mean, moments.deviations});
  std::vector<double> sums(2, 1.0);
  loops.line_products(g.data(), x.data(), n, a[0], sums.data());
  keep(sums);
  std::vector<T> y(n);
  loops.line_affine(x.data(), y.data(), n, a[0], b[0], c[0], past_caches);
  keep(y);
  loops.line_gradient(g.data(), x.data(), y.data(), n, a[0], b[0], c[0], d[0], past_caches);
  keep(y);

  std::vector<T> centre = a;
  std::vector<T> scratch(2 * width);
  std::vector<double> first(width, 0.5);
  std::vector<double> second(width, 2.0);
  loops.sheet_moments(x.data(), rows, width, centre.data(), scratch.data(), 3, first.data(), second.data());
  keep(centre), keep(first), keep(second);
  loops.sheet_products(g.data(), x.data(), rows, width, a.data(), scratch.data(), first.data(), second.data());
  keep(first), keep(second);
  loops.sheet_affine(x.data(), y.data(), rows, width, a.data(), b.data(), c.data(), past_caches);
  keep(y);
  loops.sheet_gradient(g.data(), x.data(), y.data(), rows, width, a.data(), b.data(), c.data(), d.data(), past_caches);
  keep(y);
  return results;
}

template <class T>
void expect_equal_sets() {
  const auto sets = runnable_group_norm_loops<T>();
  for (const auto& [rows, width] : {std::pair(1, 1), std::pair(5, 3), std::pair(7, 64), std::pair(13, 101)}) {
    const std::vector<double> expected = run_loops(*sets[0], rows, width, false);
    for (size_t set = 0; set < sets.size(); ++set) {
      const std::vector<double> actual = run_loops(*sets[set], rows, width, false);
      EXPECT_EQ(run_loops(*sets[set], rows, width, true), actual) << rows << " x " << width << ", set " << set;
      ASSERT_EQ(actual.size(), expected.size());
      for (size_t i = 0; i < actual.size(); ++i) {
        // Values are of the order of one, sums of as many as a sheet has.
        const double bound = 16 * std::numeric_limits<T>::epsilon() * (1 + std::abs(expected[i]));
        EXPECT_NEAR(actual[i], expected[i], bound) << rows << " x " << width << ", set " << set << ", value " << i;
      }
    }
  }
}

TEST(GroupNormLoops, AgreeOverInstructionSets) {
  expect_equal_sets<float>();
  expect_equal_sets<double>();
}

template <class Half>
void expect_conversions(void (*widen)(const Half*, float*, int64_t), void (*narrow)(const float*, Half*, int64_t)) {
  std::vector<Half> every;
  for (int bits = 0; bits < 1 << 16; ++bits) every.emplace_back(static_cast<uint16_t>(bits), Half::from_bits());
  std::vector<float> wide(every.size() - 1);
  widen(every.data(), wide.data(), static_cast<int64_t>(wide.size()));
  // Halfway to the next, too, where ties are broken; an odd number of them, for the tails of the loops.
  std::vector<float> between;
  for (size_t i = 0; i < wide.size(); ++i) {
    const auto exact = static_cast<float>(every[i]);
    EXPECT_TRUE(wide[i] == exact || (std::isnan(wide[i]) && std::isnan(exact))) << i;
    between.push_back(exact);
    between.push_back((exact + static_cast<float>(every[i + 1])) / 2);
  }
  between.push_back(1.0F);
  std::vector<Half> narrowed(between.size());
  narrow(between.data(), narrowed.data(), static_cast<int64_t>(between.size()));
  for (size_t i = 0; i < between.size(); ++i) {
    const Half expected(between[i]);
    EXPECT_TRUE(narrowed[i].x == expected.x || (std::isnan(between[i]) && std::isnan(static_cast<float>(narrowed[i]))))
        << between[i];
  }
}

TEST(GroupNormLoops, RoundHalvesAsTorchDoes) {
  for (const HalfLoops* loops : runnable_half_loops()) {
    expect_conversions<c10::Half>(loops->widen_half, loops->narrow_half);
    expect_conversions<c10::BFloat16>(loops->widen_bfloat16, loops->narrow_bfloat16);
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

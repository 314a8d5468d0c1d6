#include "ops/random_values.hpp"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "ops/parallel_tasks.hpp"
#include "ops/philox.hpp"

namespace graticule::ops {
namespace {

// Every number is made by scalar code: that of vectors rounds otherwise, and where vectors begin depends on the cut.

// In [0, 1), as many digits as asked for.
template <int digits>
double unit(uint64_t bits) {
  return static_cast<double>(bits >> (64 - digits)) * (1.0 / static_cast<double>(uint64_t{1} << digits));
}

// In (0, 1].
double positive_unit(uint64_t bits) { return 1.0 - unit<53>(bits); }

// Box and Muller's transform: the two numbers of a pair are the two coordinates.
double standard_normal(const std::array<uint64_t, 2>& pair, bool second) {
  const double radius = std::sqrt(-2.0 * std::log(positive_unit(pair[0])));
  const double angle = 2.0 * std::numbers::pi * unit<53>(pair[1]);
  return radius * (second ? std::sin(angle) : std::cos(angle));
}

template <class T>
T uniform(uint64_t bits, double from, double to) {
  constexpr int digits = std::min(53, std::numeric_limits<T>::digits);
  const T value = static_cast<T>(from + unit<digits>(bits) * (to - from));
  return static_cast<double>(value) >= to && from < to ? static_cast<T>(from) : value;
}

double geometric(uint64_t bits, double p) {
  return p >= 1 ? 1.0 : std::max(1.0, std::ceil(std::log(positive_unit(bits)) / std::log1p(-p)));
}

// x's positions, row by row of its last dimension.
struct Layout {
  int64_t rows = 1, columns = 1, stride = 0;
  std::vector<int64_t> sizes, strides;  // of all dimensions but the last
  int64_t offset = 0;

  Layout(at::IntArrayRef x_sizes, at::IntArrayRef x_strides, int64_t begin) : offset(begin) {
    if (x_sizes.empty()) return;
    sizes.assign(x_sizes.begin(), x_sizes.end() - 1);
    strides.assign(x_strides.begin(), x_strides.end() - 1);
    columns = x_sizes.back();
    stride = x_strides.back();
    for (const int64_t size : sizes) rows *= size;
  }

  int64_t row_offset(int64_t row) const {
    int64_t position = offset;
    for (size_t d = sizes.size(); d-- > 0;) {
      position += row % sizes[d] * strides[d];
      row /= sizes[d];
    }
    return position;
  }
};

// value(pair, second): the number of a position, from the bits of the pair that it is in.
template <class T, class Value>
void fill(T* x, const Layout& layout, uint64_t seed, const Value& value) {
  constexpr int64_t work = 8;  // of a number, in copies of an element
  for_tasks(layout.rows, work * layout.columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t first = layout.row_offset(row);
      uint64_t current = std::numeric_limits<uint64_t>::max();
      std::array<uint64_t, 2> pair{};
      for (int64_t column = 0; column < layout.columns; ++column) {
        const auto position = static_cast<uint64_t>(first + column * layout.stride);
        if (position / 2 != current) {
          current = position / 2;
          pair = philox_pair(seed, current);
        }
        x[row * layout.columns + column] = value(pair, position % 2 == 1);
      }
    }
  });
}

template <class T>
void fill_floating(T* x, const Layout& layout, uint64_t seed, const std::string& distribution, double a, double b) {
  using Pair = std::array<uint64_t, 2>;
  const auto each = [&](const auto& value) { fill(x, layout, seed, value); };
  if (distribution == "uniform") {
    each([=](const Pair& pair, bool second) { return uniform<T>(pair[second], a, b); });
  } else if (distribution == "normal") {
    each([=](const Pair& pair, bool second) { return static_cast<T>(a + b * standard_normal(pair, second)); });
  } else if (distribution == "log_normal") {
    each(
        [=](const Pair& pair, bool second) { return static_cast<T>(std::exp(a + b * standard_normal(pair, second))); });
  } else if (distribution == "exponential") {
    each([=](const Pair& pair, bool second) { return static_cast<T>(-std::log(positive_unit(pair[second])) / a); });
  } else {
    each([=](const Pair& pair, bool second) {
      return static_cast<T>(a + b * std::tan(std::numbers::pi * (unit<53>(pair[second]) - 0.5)));
    });
  }
}

const char* const known[] = {"uniform", "normal",     "bernoulli", "exponential",
                             "cauchy",  "log_normal", "geometric", "bits"};

void fill_any(const at::Tensor& x, const Layout& layout, uint64_t seed, const std::string& distribution, double a,
              double b) {
  using Pair = std::array<uint64_t, 2>;
  if (distribution == "bits") {
    TORCH_CHECK_TYPE(x.scalar_type() == at::kLong, "random_values_: expected int64 for bits, got ", x.scalar_type());
    fill(x.mutable_data_ptr<int64_t>(), layout, seed,
         [](const Pair& pair, bool second) { return static_cast<int64_t>(pair[second]); });
  } else if (distribution == "bernoulli" || distribution == "geometric") {
    const bool bernoulli = distribution == "bernoulli";
    AT_DISPATCH_ALL_TYPES_AND3(at::kHalf, at::kBFloat16, at::kBool, x.scalar_type(), "random_values_", [&] {
      fill(x.mutable_data_ptr<scalar_t>(), layout, seed, [=](const Pair& pair, bool second) {
        return static_cast<scalar_t>(bernoulli ? static_cast<double>(unit<53>(pair[second]) < a)
                                               : geometric(pair[second], a));
      });
    });
  } else {
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "random_values_", [&] {
      fill_floating(x.mutable_data_ptr<scalar_t>(), layout, seed, distribution, a, b);
    });
  }
}

at::Tensor& random_values_op(at::Tensor& x, at::IntArrayRef strides, int64_t offset, int64_t seed,
                             c10::string_view distribution, double a, double b) {
  random_values_(x, strides, offset, seed, std::string(distribution), a, b);
  return x;
}

}  // namespace

void random_values_(at::Tensor& x, at::IntArrayRef strides, int64_t offset, int64_t seed,
                    const std::string& distribution, double a, double b) {
  TORCH_CHECK_VALUE(std::find(std::begin(known), std::end(known), distribution) != std::end(known),
                    "random_values_: expected the name of a distribution, got ", distribution);
  TORCH_CHECK_VALUE(static_cast<int64_t>(strides.size()) == x.dim(), "random_values_: expected ", x.dim(),
                    " strides, got ", strides.size());
  if (x.is_complex()) {
    std::vector<int64_t> doubled;
    for (const int64_t stride : strides) doubled.push_back(2 * stride);
    doubled.push_back(1);
    at::Tensor reals = at::view_as_real(x);
    random_values_(reals, doubled, 2 * offset, seed, distribution, a, b);
    return;
  }
  const bool direct = x.is_cpu() && x.is_contiguous();
  const at::Tensor filled = direct ? x : at::empty(x.sizes(), x.options().device(at::kCPU));
  fill_any(filled, Layout(x.sizes(), strides, offset), static_cast<uint64_t>(seed), distribution, a, b);
  if (!direct) x.copy_(filled);
}

TORCH_LIBRARY_FRAGMENT(graticule, m) {
  m.def(
      "random_values_(Tensor(a!) x, int[] strides, int offset, int seed, str distribution, float a=0, float b=1) -> "
      "Tensor(a!)");
}
TORCH_LIBRARY_IMPL(graticule, CompositeExplicitAutograd, m) { m.impl("random_values_", random_values_op); }
TORCH_LIBRARY_IMPL(graticule, Meta, m) {
  m.impl("random_values_",
         [](at::Tensor& x, at::IntArrayRef, int64_t, int64_t, c10::string_view, double, double) -> at::Tensor& {
           return x;
         });
}

}  // namespace graticule::ops

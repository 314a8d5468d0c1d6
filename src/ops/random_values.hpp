// Random numbers that depend on a seed and on positions alone, so that any cut of a grid draws the same.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace graticule::ops {

/// Writes into every element of `x` the random number of its position: offset + sum over dimensions of index * stride.
/// Positions are at least 0. The same bits whatever part of the positions `x` holds, on every machine with the same
/// mathematical library.
///
/// Distributions and their parameters: uniform (from a to b, b excluded), normal (mean a, standard deviation b),
/// bernoulli (probability a), exponential (rate a), cauchy (median a, scale b), log_normal (a and b those of its
/// logarithm), geometric (probability a), bits (all 64 of an int64; no parameters). Complex tensors: as pairs of reals.
///
/// Throws ValueError on another name or a stride too few, TypeError on a dtype that has no such numbers.
void random_values_(at::Tensor& x, at::IntArrayRef strides, int64_t offset, int64_t seed,
                    const std::string& distribution, double a, double b);

}  // namespace graticule::ops

// How far two tensors are apart.
#pragma once

#include <ATen/core/Tensor.h>

namespace graticule::apps {

/// The largest difference of two tensors of one shape, over the largest magnitude of the second. 0 where both are zero,
/// infinity where only the second is, or where a value is not finite.
double relative_difference(const at::Tensor& a, const at::Tensor& b);

}  // namespace graticule::apps

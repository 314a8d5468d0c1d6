// What a segment makes of its source rows.
#pragma once

#include <ATen/core/Tensor.h>

#include "graticule/halo/exchange.hpp"
#include "graticule/rows/exchange_plan.hpp"

namespace graticule::halo {

/// The wanted rows of the segment, from a tensor of its source rows; may be a view.
at::Tensor apply(const rows::Segment& segment, at::Tensor source, const Layout& layout);

/// The adjoint of apply.
at::Tensor apply_adjoint(const rows::Segment& segment, at::Tensor wanted, const Layout& layout);

}  // namespace graticule::halo

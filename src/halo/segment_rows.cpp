#include "halo/segment_rows.hpp"

#include <ATen/ATen.h>

#include <vector>

namespace graticule::halo {

at::Tensor apply(const rows::Segment& segment, at::Tensor source, const Layout& layout) {
  if (segment.step == 0) {
    std::vector<int64_t> sizes = source.sizes().vec();
    sizes[layout.dim] = segment.count;
    source = source.expand(sizes);
  } else if (segment.step < 0) {
    source = source.flip(layout.dim);
  }
  if (segment.across_pole) {
    source = source.roll(source.size(layout.lon_dim) / 2, layout.lon_dim);
    if (layout.flip_sign) source = source.neg();
  }
  return source;
}

at::Tensor apply_adjoint(const rows::Segment& segment, at::Tensor wanted, const Layout& layout) {
  if (segment.across_pole) {
    wanted = wanted.roll(-(wanted.size(layout.lon_dim) / 2), layout.lon_dim);
    if (layout.flip_sign) wanted = wanted.neg();
  }
  if (segment.step == 0) return wanted.sum(layout.dim, /*keepdim=*/true);
  return segment.step < 0 ? wanted.flip(layout.dim) : wanted;
}

}  // namespace graticule::halo

#include "ops/extension.hpp"

#include <ATen/ATen.h>

#include "graticule/halo/memory_format.hpp"
#include "graticule/rows/exchange_plan.hpp"
#include "halo/segment_rows.hpp"

namespace graticule::ops {
namespace {

std::vector<rows::Segment> segments_of(const HeldRows& place, rows::Interval wanted, rows::Boundary boundary) {
  return rows::segments(rows::Partition({0, place.size}), wanted, boundary);
}

at::Tensor source_of(const at::Tensor& t, const HeldRows& place, const rows::Segment& segment) {
  const rows::Interval source = segment.source_rows();
  return t.narrow(place.dim, source.begin - place.held.begin, source.size());
}

}  // namespace

at::Tensor extended_rows(const at::Tensor& t, const HeldRows& place, rows::Interval wanted, rows::Boundary boundary) {
  at::Tensor result = halo::empty_rows(t, place.dim, wanted.size());
  for (const rows::Segment& segment : segments_of(place, wanted, boundary)) {
    at::Tensor target = result.narrow(place.dim, segment.wanted - wanted.begin, segment.count);
    if (segment.owner < 0) {
      target.zero_();
      continue;
    }
    target.copy_(halo::apply(segment, source_of(t, place, segment), {place.dim}));
  }
  return result;
}

void fold_rows_into(at::Tensor& t, const HeldRows& place, const at::Tensor& part, rows::Interval wanted,
                    rows::Boundary boundary) {
  for (const rows::Segment& segment : segments_of(place, wanted, boundary)) {
    if (segment.owner < 0) continue;
    const at::Tensor values = part.narrow(place.dim, segment.wanted - wanted.begin, segment.count);
    source_of(t, place, segment).add_(halo::apply_adjoint(segment, values, {place.dim}));
  }
}

}  // namespace graticule::ops

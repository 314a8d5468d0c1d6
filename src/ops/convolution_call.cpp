#include "ops/convolution_call.hpp"

#include <ATen/ATen.h>

#include <utility>

#include "graticule/halo/memory_format.hpp"
#include "halo/row_copy.hpp"

namespace graticule::ops {

using rows::Interval;

ConvolutionCall::ConvolutionCall(const at::Tensor& x, const at::Tensor& w, const ConvolutionArguments& a)
    : weight(w),
      options(a.options),
      placement(a.placement),
      dim(a.placement.dim),
      domain(comm::Domain::from_group_name(a.placement.group)),
      rank(domain.rank()),
      plan(find_strip_plan(x, w, a, rank)),
      input(a.placement.input.interval(rank)),
      output(a.placement.output.interval(rank)),
      s(plan->s),
      x_sizes(plan->x_sizes),
      out_sizes(plan->out_sizes) {}

at::Tensor ConvolutionCall::bordered(at::Tensor t, int64_t first) const {
  if (!bordered_across()) return t;
  for (int64_t d = first; d < t.dim(); ++d) {
    if (d != dim && options.padding[d - 2] > 0) {
      t = extended_rows(t, columns(d), padded_columns(d), options.across_boundary);
    }
  }
  return t;
}

rows::Seams ConvolutionCall::edge_columns(int64_t d) const {
  return rows::coarse_seams(stencil(options, weight, d), {0, out_sizes[d]}, {0, x_sizes[d]}, x_sizes[d],
                            /*bordered=*/true);
}

at::Tensor ConvolutionCall::without_border(at::Tensor g, int64_t first) const {
  if (!bordered_across()) return g;
  for (int64_t d = first; d < g.dim(); ++d) {
    const int64_t p = options.padding[d - 2];
    if (d == dim || p == 0) continue;
    at::Tensor inner = g.narrow(d, p, x_sizes[d]);
    fold_rows_into(inner, columns(d), g.narrow(d, 0, p), {-p, 0}, options.across_boundary);
    fold_rows_into(inner, columns(d), g.narrow(d, p + x_sizes[d], p), {x_sizes[d], x_sizes[d] + p},
                   options.across_boundary);
    g = inner;
  }
  return g;
}

at::Tensor crop(const at::Tensor& t, int64_t dim, int64_t begin, Interval own) {
  if (begin == own.begin && t.size(dim) == own.size()) return t;
  at::Tensor result = halo::empty_rows(t, dim, own.size());
  halo::copy_rows(t, own.begin - begin, result, 0, own.size(), dim);
  return result;
}

void overwrite(at::Tensor& result, Interval own, const at::Tensor& strip, int64_t begin, Interval rows, int64_t dim) {
  halo::copy_rows(strip, rows.begin - begin, result, rows.begin - own.begin, rows.size(), dim);
}

}  // namespace graticule::ops

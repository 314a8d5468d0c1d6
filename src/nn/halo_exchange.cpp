#include "graticule/nn/halo_exchange.hpp"

#include <ATen/ATen.h>

#include <utility>

#include "graticule/ops/row_exchange.hpp"

namespace graticule {

HaloExchange::HaloExchange(int64_t width, int64_t dim, std::optional<comm::Domain> domain)
    : CutLayer("HaloExchange", dim, std::move(domain)), halo_width(width) {
  TORCH_CHECK_VALUE(width >= 0, "HaloExchange: expected a halo_width of at least 0, got ", width);
}

at::Tensor HaloExchange::forward(const at::Tensor& x) {
  const auto domain = active_domain();
  if (!domain.has_value() || halo_width == 0) return x;
  const ops::Cut cut =
      cut_of(x, at::maybe_wrap_dim(shard_dim(), x.dim()), *domain, [&] { return c10::str("halo_width ", halo_width); });
  ops::RowExchange exchange;
  exchange.offsets = cut.in_offsets;
  for (int rank = 0; rank < domain->size(); ++rank) {
    exchange.begins.push_back(cut.in_offsets[rank] - halo_width);
    exchange.ends.push_back(cut.in_offsets[rank + 1] + halo_width);
  }
  exchange.boundary = "zeros";
  exchange.dim = cut.dim;
  exchange.group = cut.group;
  return ops::gather_rows(x, exchange);
}

at::Tensor HaloExchange::trim(const at::Tensor& x, int64_t before, int64_t after, int64_t dim) {
  return x.narrow(dim, before, x.size(dim) - before - after);
}

}  // namespace graticule

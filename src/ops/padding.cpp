#include "ops/padding.hpp"

#include <ATen/ATen.h>

#include "graticule/comm/domain.hpp"
#include "graticule/halo/memory_format.hpp"
#include "graticule/ops/row_exchange.hpp"
#include "graticule/rows/boundary.hpp"
#include "ops/cut_checks.hpp"

namespace graticule::ops {
namespace {

// Padding by selection, for tensors that at::pad refuses: those of no rows.
at::Tensor pad_by_selection(const at::Tensor& x, int64_t dim, int64_t before, int64_t after, const std::string& mode) {
  const rows::Boundary boundary = rows::boundary_from_name(mode, true);
  std::vector<int64_t> sources;
  for (int64_t at = -before; at < x.size(dim) + after; ++at) {
    sources.push_back(std::max<int64_t>(rows::source_row(boundary, at, x.size(dim)).row, 0));
  }
  return x.index_select(dim, at::tensor(sources, x.options().dtype(at::kLong)));
}

}  // namespace

void check_padding(int64_t before, int64_t after, int64_t size, const std::string& mode, const Cut& cut) {
  const int64_t most = std::max(before, after);
  const bool fits = mode == "reflect" ? most < size : mode == "circular" ? most <= size : true;
  TORCH_CHECK_VALUE(fits && before >= 0 && after >= 0, cut.layer, ": ", mode, " padding of ", before, " and ", after,
                    " does not fit a dimension of ", size, comm::where(comm::Domain::from_group_name(cut.group)));
}

std::vector<int64_t> padded_offsets(const std::vector<int64_t>& offsets, int64_t before, int64_t after) {
  std::vector<int64_t> result = offsets;
  for (size_t rank = 1; rank < result.size(); ++rank) result[rank] += before;
  result.back() += after;
  return result;
}

at::Tensor pad_rows(const at::Tensor& x, int64_t before, int64_t after, const std::string& mode, const Cut& cut) {
  if (before == 0 && after == 0) return x;
  check_padding(before, after, cut.in_offsets.back(), mode, cut);
  const std::vector<int64_t> padded = padded_offsets(cut.in_offsets, before, after);
  RowExchange exchange;
  exchange.offsets = cut.in_offsets;
  for (size_t rank = 0; rank + 1 < padded.size(); ++rank) {
    exchange.begins.push_back(padded[rank] - before);
    exchange.ends.push_back(padded[rank + 1] - before);
  }
  exchange.boundary = mode;
  exchange.dim = cut.dim;
  exchange.group = cut.group;
  return gather_rows(x, exchange);
}

at::Tensor pad_across(const at::Tensor& x, const std::vector<int64_t>& before, const std::vector<int64_t>& after,
                      const std::string& mode, const Cut& cut) {
  std::vector<int64_t> pads;
  bool any = false;
  for (int64_t dim = x.dim() - 1; dim >= 2; --dim) {
    const bool is_cut = dim == cut.dim;
    pads.push_back(is_cut ? 0 : before[dim - 2]);
    pads.push_back(is_cut ? 0 : after[dim - 2]);
    any = any || pads[pads.size() - 2] != 0 || pads.back() != 0;
    if (!is_cut) check_padding(before[dim - 2], after[dim - 2], x.size(dim), mode, cut);
  }
  if (!any) return x;
  if (mode == "zeros") {
    const at::Tensor padded = at::constant_pad_nd(x, pads, 0);
    return x.numel() == 0 ? padded.contiguous(halo::memory_format(x)) : padded;
  }
  // ATen's circular padding gives a contiguous tensor, whatever it is given.
  if (x.numel() != 0) return at::pad(x, pads, mode).contiguous(halo::memory_format(x));
  at::Tensor result = x;
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    if (dim != cut.dim) result = pad_by_selection(result, dim, before[dim - 2], after[dim - 2], mode);
  }
  return result.clone(halo::memory_format(x));
}

}  // namespace graticule::ops

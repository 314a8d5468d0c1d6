#include "ops/cut_checks.hpp"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

#include "graticule/comm/exchange.hpp"

namespace graticule::ops {

bool under_autocast(const at::Tensor& x) {
  const c10::DeviceType device = x.device().type();
  return at::autocast::is_autocast_available(device) && at::autocast::is_autocast_enabled(device);
}

void check_own_rows(const at::Tensor& x, int64_t dim, const std::vector<int64_t>& offsets, const std::string& layer,
                    const comm::Domain& domain) {
  const int64_t rows = rows::Partition(offsets).interval(domain.rank()).size();
  if (x.size(dim) == rows) return;
  const std::string message =
      c10::str(layer, ": expected ", rows, " rows in dimension ", dim, ", got ", x.size(dim), comm::where(domain));
  comm::poison(domain, message);
  TORCH_CHECK_VALUE(false, message);
}

void check_cut(const at::Tensor& x, const Cut& cut, const comm::Domain& domain) {
  const at::ScalarType type = x.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16, cut.layer,
                   ": expected a real floating-point tensor of 16, 32 or 64 bits, got ", type, comm::where(domain));
  TORCH_CHECK_VALUE(x.dim() >= 3 && x.dim() <= 5, cut.layer,
                    ": expected a tensor of 3 to 5 dimensions (N, C, spatial...), got ", x.dim(), comm::where(domain));
  TORCH_CHECK_VALUE(cut.dim >= 2 && cut.dim < x.dim(), cut.layer, ": expected the cut dimension to be one of 2 to ",
                    x.dim() - 1, " (a spatial one), got ", cut.dim, comm::where(domain));
  TORCH_CHECK_VALUE(static_cast<int>(cut.in_offsets.size()) == domain.size() + 1, cut.layer, ": expected ",
                    domain.size() + 1, " offsets of the input's rows, got ", cut.in_offsets.size(),
                    comm::where(domain));
  try {
    const rows::Partition input(cut.in_offsets);
    TORCH_CHECK_VALUE(input.rows() >= 1, cut.layer, ": the whole input has no rows", comm::where(domain));
  } catch (const std::invalid_argument& error) {
    TORCH_CHECK_VALUE(false, cut.layer, ": input rows: ", error.what(), comm::where(domain));
  }
}

rows::Partition checked_output(const Cut& cut, int64_t rows, const comm::Domain& domain) {
  const rows::Partition input(cut.in_offsets);
  if (cut.out_offsets.empty()) return rows::output_partition(input, rows);
  TORCH_CHECK_VALUE(static_cast<int>(cut.out_offsets.size()) == domain.size() + 1 && cut.out_offsets.back() == rows,
                    cut.layer, ": expected ", domain.size() + 1, " offsets of the output's ", rows, " rows, got ",
                    c10::IntArrayRef(cut.out_offsets), comm::where(domain));
  try {
    return rows::Partition(cut.out_offsets);
  } catch (const std::invalid_argument& error) {
    TORCH_CHECK_VALUE(false, cut.layer, ": output rows: ", error.what(), comm::where(domain));
  }
}

}  // namespace graticule::ops

#include "graticule/nn/cut_layer.hpp"

#include <ATen/ATen.h>

#include <cstdlib>
#include <mutex>
#include <utility>

#include "graticule/comm/check.hpp"
#include "graticule/comm/collectives.hpp"
#include "graticule/rows/partition.hpp"

namespace graticule {
namespace {

std::mutex default_mutex;

std::optional<comm::Domain>& default_slot() {
  static std::optional<comm::Domain> domain;
  return domain;
}

}  // namespace

void set_default_domain(std::optional<comm::Domain> domain) {
  const std::lock_guard lock(default_mutex);
  default_slot() = std::move(domain);
}

std::optional<comm::Domain> default_domain() {
  const std::lock_guard lock(default_mutex);
  return default_slot();
}

CutLayer::CutLayer(std::string layer, int64_t shard_dim, std::optional<comm::Domain> domain)
    : layer_(std::move(layer)), shard_dim_(shard_dim), domain_(std::move(domain)) {}

std::optional<comm::Domain> CutLayer::active_domain() const {
  std::optional<comm::Domain> domain = domain_.has_value() ? domain_ : default_domain();
  if (domain.has_value() && domain->size() == 1) return std::nullopt;
  return domain;
}

at::Tensor CutLayer::on_cut(const at::Tensor& x, int64_t spatial_dims, const comm::Domain& domain,
                            const Described& options,
                            const std::function<at::Tensor(const at::Tensor&, const ops::Cut&)>& forward) {
  TORCH_CHECK_VALUE(x.dim() == spatial_dims + 2 || x.dim() == spatial_dims + 1, layer_, ": expected an input of ",
                    spatial_dims + 2, " dimensions, or ", spatial_dims + 1, " without a batch, got ", x.dim(),
                    comm::where(domain));
  const bool batched = x.dim() == spatial_dims + 2;
  const at::Tensor input = batched ? x : x.unsqueeze(0);
  // A tensor of one spatial dimension can only be cut along it.
  const bool one_dimension = input.dim() == 3;
  const int64_t dim = one_dimension ? 2 : shard_dim_ < 0 ? shard_dim_ + input.dim() : shard_dim_;
  TORCH_CHECK_VALUE(dim >= 2 && dim < input.dim(), layer_, ": shard_dim ", shard_dim_,
                    " is not a spatial dimension of an input of ", input.dim(), " dimensions", comm::where(domain));
  const at::Tensor y = forward(input, cut_of(input, dim, domain, options));
  return batched ? y : y.squeeze(0);
}

ops::Cut CutLayer::cut_of(const at::Tensor& x, int64_t dim, const comm::Domain& domain, const Described& options) {
  if (comm::check_mode()) {
    // The cut dimension's size is each rank's own.
    std::vector<int64_t> across = x.sizes().vec();
    across.erase(across.begin() + dim);
    comm::check_equal(domain, layer_,
                      c10::str("input of ", c10::IntArrayRef(across), " and ", x.scalar_type(), ", cut in dimension ",
                               dim, "; ", options()));
    seen_.clear();
  }
  ops::Cut cut;
  cut.in_offsets = offsets(x.size(dim), domain);
  cut.dim = dim;
  cut.group = domain.name();
  cut.layer = layer_;
  return cut;
}

std::vector<int64_t> CutLayer::offsets(int64_t local_rows, const comm::Domain& domain) {
  if (rows_.has_value()) return rows::Partition::balanced(*rows_, domain.size()).offsets();
  std::vector<SeenCut>& seen = seen_[domain.name()];
  // After a second cut no rank can tell by its own rows which one is meant.
  if (seen.size() == 1 && seen[0].local_rows == local_rows) return seen[0].offsets;
  std::vector<int64_t> gathered = comm::gather_sizes(domain, local_rows, layer_);
  if (seen.size() < 2) seen.push_back({local_rows, gathered});
  return gathered;
}

}  // namespace graticule

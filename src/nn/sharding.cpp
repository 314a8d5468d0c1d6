#include "graticule/nn/sharding.hpp"

#include <ATen/ATen.h>

#include <map>
#include <string>
#include <utility>

#include "graticule/comm/collectives.hpp"
#include "graticule/halo/memory_format.hpp"
#include "graticule/ops/row_exchange.hpp"
#include "graticule/rows/partition.hpp"

namespace graticule {
namespace {

constexpr int64_t bucket_elements = int64_t{8} << 20;

at::Tensor as_real(const at::Tensor& t) { return t.is_complex() ? at::view_as_real(t) : t; }

// The type in which gradients of a parameter are added up.
at::ScalarType sum_type(const at::Tensor& p) {
  return p.scalar_type() == at::kDouble || p.scalar_type() == at::kComplexDouble ? at::kDouble : at::kFloat;
}

// Adds up one bucket of gradients of one device and accumulation type.
void sync_bucket(const std::vector<at::Tensor>& parameters, at::ScalarType type, const comm::Domain& domain) {
  if (parameters.empty()) return;
  std::vector<at::Tensor> flat;
  for (const at::Tensor& p : parameters) {
    const at::Tensor own = p.grad().defined() ? p.grad().resolve_conj() : at::zeros_like(p);
    flat.push_back(as_real(own).reshape({-1}).to(type));
  }
  at::Tensor bucket = at::cat(flat);
  comm::all_reduce_sum_(domain, bucket, "sync_domain_gradients");
  int64_t begin = 0;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const at::Tensor& p = parameters[i];
    if (!p.grad().defined()) p.mutable_grad() = at::empty_like(p);
    if (p.grad().is_conj()) p.mutable_grad() = p.grad().resolve_conj();
    const at::Tensor target = as_real(p.grad());
    target.copy_(bucket.narrow(0, begin, flat[i].numel()).view(target.sizes()));
    begin += flat[i].numel();
  }
}

void sync_in_buckets(const std::vector<at::Tensor>& parameters, at::ScalarType type, const comm::Domain& domain) {
  std::vector<at::Tensor> bucket;
  int64_t elements = 0;
  for (const at::Tensor& p : parameters) {
    bucket.push_back(p);
    elements += p.numel();
    if (elements < bucket_elements) continue;
    sync_bucket(bucket, type, domain);
    bucket.clear();
    elements = 0;
  }
  sync_bucket(bucket, type, domain);
}

}  // namespace

at::Tensor shard_tensor(const at::Tensor& x, int64_t dim, const comm::Domain& domain) {
  dim = at::maybe_wrap_dim(dim, x.dim());
  const rows::Interval own = rows::Partition::balanced(x.size(dim), domain.size()).interval(domain.rank());
  return x.narrow(dim, own.begin, own.size()).clone(halo::memory_format(x));
}

at::Tensor gather_tensor(const at::Tensor& x, int64_t dim, const comm::Domain& domain) {
  dim = at::maybe_wrap_dim(dim, x.dim());
  ops::RowExchange exchange;
  exchange.offsets = comm::gather_sizes(domain, x.size(dim), "gather_tensor");
  exchange.begins.assign(domain.size(), 0);
  exchange.ends.assign(domain.size(), exchange.offsets.back());
  exchange.dim = dim;
  exchange.group = domain.name();
  return ops::gather_rows(x, exchange);
}

void sync_domain_gradients(const std::vector<at::Tensor>& parameters, const comm::Domain& domain) {
  if (domain.size() == 1) return;
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> trained;
  for (const at::Tensor& p : parameters) {
    if (!p.requires_grad()) continue;
    TORCH_CHECK_VALUE(!p.grad().defined() || p.grad().layout() == at::kStrided,
                      "sync_domain_gradients: expected dense gradients, got a ", p.grad().layout(), " one of shape ",
                      p.sizes(), comm::where(domain));
    trained.push_back(p);
  }
  if (trained.empty()) return;
  std::vector<double> has_gradient;
  for (const at::Tensor& p : trained) has_gradient.push_back(p.grad().defined() ? 1 : 0);
  at::Tensor counts = at::tensor(has_gradient, at::kDouble).to(comm::steering_device(domain));
  // The parameters are part of the message: ranks with other ones must not add them up.
  comm::Facts facts;
  for (const at::Tensor& p : trained) facts.add(p.sizes().vec()).add(static_cast<int64_t>(p.scalar_type()));
  comm::all_reduce_sum_(domain, counts,
                        c10::str("sync_domain_gradients of ", trained.size(), " parameters (", facts.hash(), ")"));

  counts = counts.cpu();

  // Of one device and sum type each, in an order that all ranks share.
  std::map<std::pair<std::string, at::ScalarType>, std::vector<at::Tensor>> alike;
  for (size_t i = 0; i < trained.size(); ++i) {
    if (counts[static_cast<int64_t>(i)].item<double>() == 0) continue;
    alike[{trained[i].device().str(), sum_type(trained[i])}].push_back(trained[i]);
  }
  for (const auto& [kind, of_kind] : alike) sync_in_buckets(of_kind, kind.second, domain);
}

}  // namespace graticule

#include "ops/group_norm_call.hpp"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

#include "graticule/ops/layers.hpp"
#include "halo/plan_cache.hpp"
#include "ops/cut_checks.hpp"

namespace graticule::ops {
namespace {

using Optional = std::optional<at::Tensor>;

// Elements of one group of one sample on `rows` rows.
int64_t elements(const at::Tensor& x, const GroupNormView& view, int64_t rows) {
  int64_t count = x.size(1) / view.num_groups;
  for (int64_t d = 2; d < x.dim(); ++d) count *= d == view.dim ? rows : x.size(d);
  return count;
}

comm::Facts shared_facts(const at::Tensor& x, const GroupNormCall& call, const char* direction) {
  comm::Facts facts;
  facts.add(direction).add(static_cast<int64_t>(x.scalar_type())).add(call.num_groups).add(call.eps).add(call.dim);
  facts.add(call.in_offsets);
  for (int64_t d = 0; d < x.dim(); ++d) facts.add(d == call.dim ? 0 : x.size(d));
  return facts;
}

// Size by size: traced code may know no list of them.
void add_tensor(halo::PlanKey& key, const at::Tensor& t) {
  key.add(static_cast<int64_t>(t.scalar_type())).add(t.dim());
  for (int64_t d = 0; d < t.dim(); ++d) key.add(t.size(d));
}

halo::PlanKey key_of(const at::Tensor& x, const GroupNormView& view) {
  halo::PlanKey key;
  key.add(view.num_groups).add(view.eps).add(view.in_offsets).add(view.dim).add(view.group).add(view.layer);
  add_tensor(key, x);
  return key;
}

// The dtype in which autocast would run at::group_norm: asked of ATen, on one element.
at::ScalarType autocast_type(const at::Tensor& x) {
  const at::NoGradGuard no_grad;
  return at::group_norm(at::zeros({1, 1, 2}, x.options()), 1).scalar_type();
}

// `type` is the input's, or the one that autocast gives to all of them.
void check_parameter(const Optional& parameter, const at::Tensor& x, at::ScalarType type, const char* name,
                     const Cut& cut, const comm::Domain& domain) {
  if (!parameter.has_value() || !parameter->defined()) return;
  TORCH_CHECK_VALUE(parameter->dim() == 1 && parameter->size(0) == x.size(1), cut.layer, ": expected a ", name, " of ",
                    x.size(1), " values, got ", parameter->sizes(), comm::where(domain));
  const at::ScalarType given = type == x.scalar_type() ? parameter->scalar_type() : type;
  const bool mixed = at::isReducedFloatingType(type) && given == at::kFloat;
  TORCH_CHECK_TYPE(mixed || given == type, cut.layer, ": expected a ", name, " of the input's dtype ", type, ", got ",
                   given, comm::where(domain));
}

at::ScalarType check(const at::Tensor& x, const Optional& weight, const Optional& bias, const GroupNormView& view,
                     const comm::Domain& domain) {
  const Cut cut{view.in_offsets.vec(), {}, view.dim, std::string(view.group), std::string(view.layer)};
  check_cut(x, cut, domain);
  TORCH_CHECK_VALUE(view.num_groups >= 1 && x.size(1) % view.num_groups == 0, cut.layer, ": ", view.num_groups,
                    " groups do not divide ", x.size(1), " channels", comm::where(domain));
  TORCH_CHECK_VALUE(x.size(0) * elements(x, view, cut.in_offsets.back()) != 1, cut.layer,
                    ": expected more than one value to normalise, got one", comm::where(domain));
  const at::ScalarType type = under_autocast(x) ? autocast_type(x) : x.scalar_type();
  check_parameter(weight, x, type, "weight", cut, domain);
  check_parameter(bias, x, type, "bias", cut, domain);
  if (weight.has_value() && weight->defined() && bias.has_value() && bias->defined()) {
    TORCH_CHECK_TYPE(type != x.scalar_type() || weight->scalar_type() == bias->scalar_type(), cut.layer,
                     ": expected a bias of the weight's dtype ", weight->scalar_type(), ", got ", bias->scalar_type(),
                     comm::where(domain));
  }
  return type;
}

}  // namespace

std::shared_ptr<const GroupNormCall> find_group_norm_call(const at::Tensor& x, const GroupNormView& view) {
  static halo::PlanCache<GroupNormCall> known;
  return known.find(key_of(x, view), [&] {
    TORCH_CHECK_VALUE(view.num_groups >= 1 && !view.in_offsets.empty(), view.layer,
                      ": expected groups and offsets, got ", view.num_groups, " and ", view.in_offsets);
    GroupNormCall call{view.num_groups,
                       view.eps,
                       view.in_offsets.vec(),
                       view.dim,
                       std::string(view.group),
                       std::string(view.layer),
                       {},
                       static_cast<double>(elements(x, view, view.in_offsets.back())),
                       {},
                       {}};
    for (size_t rank = 0; rank + 1 < view.in_offsets.size(); ++rank) {
      const int64_t rows = view.in_offsets[rank + 1] - view.in_offsets[rank];
      call.elements.push_back(static_cast<double>(elements(x, view, rows)));
    }
    call.forward = shared_facts(x, call, "forward");
    call.backward = shared_facts(x, call, "backward");
    return std::make_shared<const GroupNormCall>(std::move(call));
  });
}

at::ScalarType check_group_norm(const at::Tensor& x, const Optional& weight, const Optional& bias,
                                const GroupNormView& view, const comm::Domain& domain) {
  static halo::PlanCache<at::ScalarType> known;
  halo::PlanKey key = key_of(x, view);
  const c10::DeviceType device = x.device().type();
  const bool autocast = under_autocast(x);
  key.add(domain.rank()).add(domain.size()).add(static_cast<int64_t>(device)).add(autocast);
  key.add(autocast ? static_cast<int64_t>(at::autocast::get_autocast_dtype(device)) : -1);
  for (const Optional* parameter : {&weight, &bias}) {
    const bool given = parameter->has_value() && (*parameter)->defined();
    key.add(given);
    if (given) add_tensor(key, **parameter);
  }
  return *known.find(key, [&] { return std::make_shared<const at::ScalarType>(check(x, weight, bias, view, domain)); });
}

}  // namespace graticule::ops

// graticule::gather_rows and graticule::fold_rows, each the other's derivative.
#include "graticule/ops/row_exchange.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <sstream>
#include <string_view>
#include <type_traits>
#include <utility>

#include "graticule/comm/check.hpp"
#include "graticule/comm/domain.hpp"
#include "graticule/halo/exchange.hpp"
#include "graticule/halo/memory_format.hpp"
#include "halo/plan_cache.hpp"
#include "ops/autograd_support.hpp"
#include "ops/call_trace.hpp"

namespace graticule::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// A plan looks at every row beyond the grid.
constexpr int64_t most_rows_beyond = int64_t{1} << 24;

using Tensors = std::vector<at::Tensor>;

// What a call is told beside its tensors, as its schema has it: of each tensor how it lies.
struct View {
  at::IntArrayRef offsets, begins, ends;
  std::string_view boundary;
  at::IntArrayRef dims, lon_dims;
  bool row_on_pole;
  at::IntArrayRef flip_signs;
  std::string_view group;
};

std::vector<rows::Interval> wanted_rows(const View& e) {
  TORCH_CHECK(e.begins.size() == e.ends.size(), "gather_rows: ", e.begins.size(), " begins and ", e.ends.size(),
              " ends");
  std::vector<rows::Interval> result;
  const int64_t rows = e.offsets.empty() ? 0 : e.offsets.back();
  for (size_t rank = 0; rank < e.begins.size(); ++rank) {
    const rows::Interval wanted{e.begins[rank], e.ends[rank]};
    TORCH_CHECK_VALUE(wanted.begin <= wanted.end, "gather_rows: expected begins up to ends, got rows ", wanted.begin,
                      " to ", wanted.end, " for rank ", rank);
    TORCH_CHECK_VALUE(wanted.begin >= -most_rows_beyond && wanted.end <= rows + most_rows_beyond,
                      "gather_rows: expected rows at most ", most_rows_beyond, " beyond a grid of ", rows, ", got ",
                      wanted.begin, " to ", wanted.end, " for rank ", rank);
    result.push_back(wanted);
  }
  return result;
}

std::shared_ptr<const rows::ExchangePlan> make_plan(const View& e, int rank, const char* what) {
  try {
    return std::make_shared<const rows::ExchangePlan>(rows::Partition(e.offsets.vec()), wanted_rows(e),
                                                      rows::boundary_from_name(std::string(e.boundary), e.row_on_pole),
                                                      rank);
  } catch (const std::invalid_argument& error) {
    TORCH_CHECK_VALUE(false, what, ": ", error.what(), " (rank ", rank, ")");
  }
}

// Found in O(1) after the first call with equal arguments.
std::shared_ptr<const rows::ExchangePlan> find_plan(const View& e, int rank, const char* what) {
  static halo::PlanCache<rows::ExchangePlan> plans;
  halo::PlanKey key;
  key.add(rank).add(e.boundary).add(e.row_on_pole).add(e.offsets).add(e.begins).add(e.ends);
  return plans.find(key, [&] { return make_plan(e, rank, what); });
}

halo::Shards shards_of(at::TensorList tensors, const View& e, const char* what) {
  TORCH_CHECK_VALUE(!tensors.empty() && e.dims.size() == tensors.size() && e.lon_dims.size() == tensors.size() &&
                        e.flip_signs.size() == tensors.size(),
                    what, ": expected a tensor or more, and as many dims, lon_dims and flip_signs, got ",
                    tensors.size(), ", ", e.dims.size(), ", ", e.lon_dims.size(), " and ", e.flip_signs.size());
  halo::Shards shards;
  for (size_t i = 0; i < tensors.size(); ++i) {
    TORCH_CHECK_VALUE(tensors[i].device() == tensors[0].device(), what, ": expected all tensors on ",
                      tensors[0].device(), ", got one on ", tensors[i].device());
    shards.push_back({tensors[i], {e.dims[i], e.lon_dims[i], e.flip_signs[i] != 0}});
  }
  return shards;
}

// A fold is told of as the backward that it is, whoever asks for it: traces have no other word for an adjoint.
template <typename Exchange>
Tensors run(at::TensorList tensors, const View& e, const char* what) {
  constexpr bool gathers = std::is_same_v<Exchange, halo::Gather>;
  const comm::Domain domain = comm::Domain::from_group_name(std::string(e.group));
  const auto plan = find_plan(e, domain.rank(), what);
  const bool alone = plan->sends.empty() && plan->receives.empty();
  const CallTrace trace("gather_rows", gathers ? "forward" : "backward", alone ? "no message" : "one exchange",
                        gathers ? ", a copy of the rows" : ", a sum of the rows");
  return Exchange(shards_of(tensors, e, what), plan, domain, what).finish_each();
}

at::Tensor shaped(const at::Tensor& t, int64_t dim, int64_t count) {
  TORCH_CHECK(dim >= 0 && dim < t.dim(), "gather_rows: dimension ", dim, " is not one of ", t.dim());
  return halo::empty_rows(t, dim, count);
}

#define GRATICULE_EXCHANGE_ARGUMENTS                                                                             \
  at::IntArrayRef offsets, at::IntArrayRef begins, at::IntArrayRef ends, c10::string_view boundary, int64_t dim, \
      int64_t lon_dim, bool row_on_pole, bool flip_sign, c10::string_view group
#define GRATICULE_EXCHANGE_VIEW   \
  const int64_t flip = flip_sign; \
  const View e { offsets, begins, ends, boundary, dim, lon_dim, row_on_pole, flip, group }
#define GRATICULE_EXCHANGES_ARGUMENTS                                                               \
  at::IntArrayRef offsets, at::IntArrayRef begins, at::IntArrayRef ends, c10::string_view boundary, \
      at::IntArrayRef dims, at::IntArrayRef lon_dims, bool row_on_pole, at::IntArrayRef flip_signs, \
      c10::string_view group
#define GRATICULE_EXCHANGES_VIEW \
  const View e { offsets, begins, ends, boundary, dims, lon_dims, row_on_pole, flip_signs, group }

using Schema = at::Tensor(const at::Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, c10::string_view,
                          int64_t, int64_t, bool, bool, c10::string_view);
using SchemaOfEach = Tensors(at::TensorList, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, c10::string_view,
                             at::IntArrayRef, at::IntArrayRef, bool, at::IntArrayRef, c10::string_view);

Tensors call_each(bool gathers, at::TensorList tensors, const View& e) {
  const auto find = [](const char* name) {
    return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<SchemaOfEach>();
  };
  static const auto gather = find("graticule::gather_rows_of_each");
  static const auto fold = find("graticule::fold_rows_of_each");
  return (gathers ? gather : fold)
      .call(tensors, e.offsets, e.begins, e.ends, e.boundary, e.dims, e.lon_dims, e.row_on_pole, e.flip_signs, e.group);
}

// One tensor has an op of its own: with less to look at.
at::Tensor call_one(bool gathers, const at::Tensor& t, const View& e) {
  const auto find = [](const char* name) {
    return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Schema>();
  };
  static const auto gather = find("graticule::gather_rows");
  static const auto fold = find("graticule::fold_rows");
  return (gathers ? gather : fold)
      .call(t, e.offsets, e.begins, e.ends, e.boundary, e.dims[0], e.lon_dims[0], e.row_on_pole, e.flip_signs[0] != 0,
            e.group);
}

at::Tensor gather_kernel(const at::Tensor& x, GRATICULE_EXCHANGE_ARGUMENTS) {
  GRATICULE_EXCHANGE_VIEW;
  return run<halo::Gather>(x, e, "gather_rows").front();
}

at::Tensor fold_kernel(const at::Tensor& g, GRATICULE_EXCHANGE_ARGUMENTS) {
  GRATICULE_EXCHANGE_VIEW;
  return run<halo::Fold>(g, e, "fold_rows").front();
}

Tensors gather_each_kernel(at::TensorList xs, GRATICULE_EXCHANGES_ARGUMENTS) {
  GRATICULE_EXCHANGES_VIEW;
  return run<halo::Gather>(xs, e, "gather_rows");
}

Tensors fold_each_kernel(at::TensorList gs, GRATICULE_EXCHANGES_ARGUMENTS) {
  GRATICULE_EXCHANGES_VIEW;
  return run<halo::Fold>(gs, e, "fold_rows");
}

Tensors gather_shapes(at::TensorList xs, const View& e) {
  (void)shards_of(xs, e, "gather_rows");
  const int rank = comm::Domain::from_group_name(std::string(e.group)).rank();
  Tensors results;
  for (size_t i = 0; i < xs.size(); ++i) {
    results.push_back(shaped(xs[i], e.dims.at(i), wanted_rows(e).at(rank).size()));
  }
  return results;
}

Tensors fold_shapes(at::TensorList gs, const View& e) {
  (void)shards_of(gs, e, "fold_rows");
  const int rank = comm::Domain::from_group_name(std::string(e.group)).rank();
  Tensors results;
  for (size_t i = 0; i < gs.size(); ++i) {
    results.push_back(shaped(gs[i], e.dims.at(i), rows::Partition(e.offsets.vec()).interval(rank).size()));
  }
  return results;
}

at::Tensor gather_meta(const at::Tensor& x, GRATICULE_EXCHANGE_ARGUMENTS) {
  GRATICULE_EXCHANGE_VIEW;
  return gather_shapes(x, e).front();
}

at::Tensor fold_meta(const at::Tensor& g, GRATICULE_EXCHANGE_ARGUMENTS) {
  GRATICULE_EXCHANGE_VIEW;
  return fold_shapes(g, e).front();
}

Tensors gather_each_meta(at::TensorList xs, GRATICULE_EXCHANGES_ARGUMENTS) {
  GRATICULE_EXCHANGES_VIEW;
  return gather_shapes(xs, e);
}

Tensors fold_each_meta(at::TensorList gs, GRATICULE_EXCHANGES_ARGUMENTS) {
  GRATICULE_EXCHANGES_VIEW;
  return fold_shapes(gs, e);
}

// Whether gradients of this dtype can be added up. Every rank knows dtypes; which tensors need a gradient may differ
// between ranks.
bool has_gradient(const at::Tensor& t) {
  const at::ScalarType type = t.scalar_type();
  return at::isComplexType(type) || type == at::kFloat || type == at::kDouble || type == at::kHalf ||
         type == at::kBFloat16;
}

// Of a call with a gradient, what backward is told.
struct Saved : torch::CustomClassHolder {
  std::vector<int64_t> offsets, begins, ends, dims, lon_dims, flip_signs;
  std::string boundary, group;
  bool row_on_pole;
  bool forward_gathers;
  size_t count = 0;                   // of tensors
  std::vector<size_t> with_gradient;  // which of them; the layouts are theirs alone

  Saved(at::TensorList tensors, const View& e, bool gathers)
      : offsets(e.offsets.vec()),
        begins(e.begins.vec()),
        ends(e.ends.vec()),
        boundary(e.boundary),
        group(e.group),
        row_on_pole(e.row_on_pole),
        forward_gathers(gathers),
        count(tensors.size()) {
    for (size_t i = 0; i < count; ++i) {
      if (!has_gradient(tensors[i])) continue;
      with_gradient.push_back(i);
      dims.push_back(e.dims[i]);
      lon_dims.push_back(e.lon_dims[i]);
      flip_signs.push_back(e.flip_signs[i]);
    }
  }

  /// Refers to this.
  [[nodiscard]] View view() const {
    return {offsets, begins, ends, boundary, dims, lon_dims, row_on_pole, flip_signs, group};
  }
};

// Gather when `gathers`, else fold; the backward is the other one.
struct ExchangeFunction : torch::autograd::Function<ExchangeFunction> {
  static variable_list forward(AutogradContext* ctx, at::TensorList tensors, const View& e, bool gathers) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    save_a_mark(ctx, tensors[0]);
    ctx->saved_data["call"] = c10::IValue::make_capsule(c10::make_intrusive<Saved>(tensors, e, gathers));
    variable_list results =
        tensors.size() == 1 ? variable_list{call_one(gathers, tensors[0], e)} : call_each(gathers, tensors, e);
    variable_list without;
    for (const at::Tensor& result : results) {
      if (!has_gradient(result)) without.push_back(result);
    }
    if (!without.empty()) ctx->mark_non_differentiable(without);
    return results;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    ask_for_the_mark(ctx);
    const auto& saved = static_cast<const Saved&>(*ctx->saved_data["call"].toCapsule());
    const bool gathers = !saved.forward_gathers;
    variable_list results(saved.count + 2);
    if (saved.with_gradient.size() == 1) {
      const size_t only = saved.with_gradient[0];
      results[only] = call_one(gathers, grads[only], saved.view());
      return results;
    }
    variable_list given;
    for (const size_t i : saved.with_gradient) given.push_back(grads[i]);
    variable_list made = call_each(gathers, given, saved.view());
    for (size_t i = 0; i < made.size(); ++i) results[saved.with_gradient[i]] = std::move(made[i]);
    return results;
  }
};

at::Tensor gather_autograd(const at::Tensor& x, GRATICULE_EXCHANGE_ARGUMENTS) {
  GRATICULE_EXCHANGE_VIEW;
  return ExchangeFunction::apply(at::TensorList(x), e, true)[0];
}

at::Tensor fold_autograd(const at::Tensor& g, GRATICULE_EXCHANGE_ARGUMENTS) {
  GRATICULE_EXCHANGE_VIEW;
  return ExchangeFunction::apply(at::TensorList(g), e, false)[0];
}

Tensors gather_each_autograd(at::TensorList xs, GRATICULE_EXCHANGES_ARGUMENTS) {
  GRATICULE_EXCHANGES_VIEW;
  (void)shards_of(xs, e, "gather_rows");
  return ExchangeFunction::apply(xs, e, true);
}

Tensors fold_each_autograd(at::TensorList gs, GRATICULE_EXCHANGES_ARGUMENTS) {
  GRATICULE_EXCHANGES_VIEW;
  (void)shards_of(gs, e, "fold_rows");
  return ExchangeFunction::apply(gs, e, false);
}

// `places` must outlive the view.
struct Places {
  std::vector<int64_t> dims, lon_dims, flip_signs;

  explicit Places(const std::vector<RowsOf>& tensors) {
    for (const RowsOf& t : tensors) {
      dims.push_back(t.dim);
      lon_dims.push_back(t.lon_dim);
      flip_signs.push_back(t.flip_sign);
    }
  }
  [[nodiscard]] View view(const RowExchange& e) const {
    return {e.offsets, e.begins, e.ends, e.boundary, dims, lon_dims, e.row_on_pole, flip_signs, e.group};
  }
};

// Where check mode is on: that all ranks make the same call.
void compare(const char* what, const std::vector<RowsOf>& tensors, const RowExchange& e) {
  if (!comm::check_mode()) return;
  std::ostringstream facts;
  facts << "rows " << c10::IntArrayRef(e.begins) << " to " << c10::IntArrayRef(e.ends) << " of "
        << c10::IntArrayRef(e.offsets) << " beyond which are " << e.boundary << (e.row_on_pole ? ", row on pole" : "");
  for (const RowsOf& t : tensors) {
    std::vector<int64_t> across = t.tensor.sizes().vec();
    if (t.dim >= 0 && t.dim < t.tensor.dim()) across.erase(across.begin() + t.dim);
    facts << "; " << c10::IntArrayRef(across) << ' ' << t.tensor.scalar_type() << " cut along " << t.dim << ", lon_dim "
          << t.lon_dim << (t.flip_sign ? ", flipped" : "");
  }
  comm::check_equal(comm::Domain::from_group_name(e.group), what, facts.str());
}

at::Tensor exchanged(bool gathers, const at::Tensor& t, const RowExchange& e) {
  const std::vector<RowsOf> tensors{{t, e.dim, e.lon_dim, e.flip_sign}};
  compare(gathers ? "gather_rows" : "fold_rows", tensors, e);
  return call_one(gathers, t, Places(tensors).view(e));
}

Tensors exchanged(bool gathers, const std::vector<RowsOf>& tensors, const RowExchange& e) {
  compare(gathers ? "gather_rows" : "fold_rows", tensors, e);
  Tensors values;
  for (const RowsOf& t : tensors) values.push_back(t.tensor);
  return call_each(gathers, values, Places(tensors).view(e));
}

}  // namespace

at::Tensor gather_rows(const at::Tensor& x, const RowExchange& e) { return exchanged(true, x, e); }

at::Tensor fold_rows(const at::Tensor& g, const RowExchange& e) { return exchanged(false, g, e); }

Tensors gather_rows(const std::vector<RowsOf>& xs, const RowExchange& e) { return exchanged(true, xs, e); }

Tensors fold_rows(const std::vector<RowsOf>& gs, const RowExchange& e) { return exchanged(false, gs, e); }

TORCH_LIBRARY_FRAGMENT(graticule, m) {
  m.def(
      "gather_rows(Tensor x, int[] offsets, int[] begins, int[] ends, str boundary, int dim, int lon_dim, "
      "bool row_on_pole, bool flip_sign, str group) -> Tensor");
  m.def(
      "fold_rows(Tensor g, int[] offsets, int[] begins, int[] ends, str boundary, int dim, int lon_dim, "
      "bool row_on_pole, bool flip_sign, str group) -> Tensor");
  m.def(
      "gather_rows_of_each(Tensor[] xs, int[] offsets, int[] begins, int[] ends, str boundary, int[] dims, "
      "int[] lon_dims, bool row_on_pole, int[] flip_signs, str group) -> Tensor[]");
  m.def(
      "fold_rows_of_each(Tensor[] gs, int[] offsets, int[] begins, int[] ends, str boundary, int[] dims, "
      "int[] lon_dims, bool row_on_pole, int[] flip_signs, str group) -> Tensor[]");
  m.def("balanced_offsets(int rows, int ranks) -> int[]",
        [](int64_t rows, int64_t ranks) { return rows::Partition::balanced(rows, static_cast<int>(ranks)).offsets(); });
}
TORCH_LIBRARY_IMPL(graticule, CompositeExplicitAutograd, m) {
  m.impl("gather_rows", gather_kernel);
  m.impl("fold_rows", fold_kernel);
  m.impl("gather_rows_of_each", gather_each_kernel);
  m.impl("fold_rows_of_each", fold_each_kernel);
}
TORCH_LIBRARY_IMPL(graticule, Meta, m) {
  m.impl("gather_rows", gather_meta);
  m.impl("fold_rows", fold_meta);
  m.impl("gather_rows_of_each", gather_each_meta);
  m.impl("fold_rows_of_each", fold_each_meta);
}
TORCH_LIBRARY_IMPL(graticule, Autograd, m) {
  m.impl("gather_rows", gather_autograd);
  m.impl("fold_rows", fold_autograd);
  m.impl("gather_rows_of_each", gather_each_autograd);
  m.impl("fold_rows_of_each", fold_each_autograd);
}

}  // namespace graticule::ops

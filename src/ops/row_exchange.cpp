// graticule::gather_rows and graticule::fold_rows, each the other's derivative.
#include "graticule/ops/row_exchange.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <utility>

#include "graticule/comm/domain.hpp"
#include "graticule/halo/exchange.hpp"
#include "graticule/halo/memory_format.hpp"
#include "graticule/halo/plans.hpp"
#include "ops/autograd_support.hpp"

namespace graticule::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// A plan looks at every row beyond the grid.
constexpr int64_t most_rows_beyond = int64_t{1} << 24;

std::vector<rows::Interval> wanted_rows(const RowExchange& e) {
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

std::shared_ptr<const rows::ExchangePlan> plan_for(const RowExchange& e, int rank, const char* what) {
  try {
    return halo::find_plan(rows::Partition(e.offsets), wanted_rows(e),
                           rows::boundary_from_name(e.boundary, e.row_on_pole), rank);
  } catch (const std::invalid_argument& error) {
    TORCH_CHECK_VALUE(false, what, ": ", error.what(), " (rank ", rank, ")");
  }
}

template <typename Exchange>
at::Tensor run(const at::Tensor& t, const RowExchange& e, const char* what) {
  const comm::Domain domain = comm::Domain::from_group_name(e.group);
  return Exchange(t, plan_for(e, domain.rank(), what), {e.dim, e.lon_dim, e.flip_sign}, domain, what).finish();
}

at::Tensor shaped(const at::Tensor& t, const RowExchange& e, int64_t count) {
  TORCH_CHECK(e.dim >= 0 && e.dim < t.dim(), "gather_rows: dimension ", e.dim, " is not one of ", t.dim());
  std::vector<int64_t> sizes = t.sizes().vec();
  sizes[e.dim] = count;
  return at::empty(sizes, t.options().memory_format(halo::memory_format(t)));
}

#define GRATICULE_EXCHANGE_ARGUMENTS                                                                             \
  at::IntArrayRef offsets, at::IntArrayRef begins, at::IntArrayRef ends, c10::string_view boundary, int64_t dim, \
      int64_t lon_dim, bool row_on_pole, bool flip_sign, c10::string_view group
#define GRATICULE_COLLECT_EXCHANGE                                                                        \
  RowExchange {                                                                                           \
    offsets.vec(), begins.vec(), ends.vec(), std::string(boundary), dim, lon_dim, row_on_pole, flip_sign, \
        std::string(group)                                                                                \
  }

using Schema = at::Tensor(const at::Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, c10::string_view,
                          int64_t, int64_t, bool, bool, c10::string_view);

at::Tensor call(const c10::TypedOperatorHandle<Schema>& op, const at::Tensor& t, const RowExchange& e) {
  return op.call(t, e.offsets, e.begins, e.ends, e.boundary, e.dim, e.lon_dim, e.row_on_pole, e.flip_sign, e.group);
}

const c10::TypedOperatorHandle<Schema>& gather_op() {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("graticule::gather_rows", "").typed<Schema>();
  return op;
}

const c10::TypedOperatorHandle<Schema>& fold_op() {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("graticule::fold_rows", "").typed<Schema>();
  return op;
}

at::Tensor gather_kernel(const at::Tensor& x, GRATICULE_EXCHANGE_ARGUMENTS) {
  return run<halo::Gather>(x, GRATICULE_COLLECT_EXCHANGE, "gather_rows");
}

at::Tensor fold_kernel(const at::Tensor& g, GRATICULE_EXCHANGE_ARGUMENTS) {
  return run<halo::Fold>(g, GRATICULE_COLLECT_EXCHANGE, "fold_rows");
}

at::Tensor gather_meta(const at::Tensor& x, GRATICULE_EXCHANGE_ARGUMENTS) {
  const RowExchange e = GRATICULE_COLLECT_EXCHANGE;
  const int rank = comm::Domain::from_group_name(e.group).rank();
  return shaped(x, e, wanted_rows(e).at(rank).size());
}

at::Tensor fold_meta(const at::Tensor& g, GRATICULE_EXCHANGE_ARGUMENTS) {
  const RowExchange e = GRATICULE_COLLECT_EXCHANGE;
  const int rank = comm::Domain::from_group_name(e.group).rank();
  return shaped(g, e, rows::Partition(e.offsets).interval(rank).size());
}

// Gather when `forward_gathers`, else fold; the backward is the other one.
struct ExchangeFunction : torch::autograd::Function<ExchangeFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& t, const RowExchange& e, bool forward_gathers) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    save_a_mark(ctx, t);
    auto& data = ctx->saved_data;
    data["offsets"] = e.offsets;
    data["begins"] = e.begins;
    data["ends"] = e.ends;
    data["boundary"] = e.boundary;
    data["dim"] = e.dim;
    data["lon_dim"] = e.lon_dim;
    data["row_on_pole"] = e.row_on_pole;
    data["flip_sign"] = e.flip_sign;
    data["group"] = e.group;
    data["forward_gathers"] = forward_gathers;
    return call(forward_gathers ? gather_op() : fold_op(), t, e);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto& data = ctx->saved_data;
    const RowExchange e{data["offsets"].toIntVector(),  data["begins"].toIntVector(), data["ends"].toIntVector(),
                        data["boundary"].toStringRef(), data["dim"].toInt(),          data["lon_dim"].toInt(),
                        data["row_on_pole"].toBool(),   data["flip_sign"].toBool(),   data["group"].toStringRef()};
    return {call(data["forward_gathers"].toBool() ? fold_op() : gather_op(), grads[0], e), Variable(), Variable()};
  }
};

at::Tensor gather_autograd(const at::Tensor& x, GRATICULE_EXCHANGE_ARGUMENTS) {
  return ExchangeFunction::apply(x, GRATICULE_COLLECT_EXCHANGE, true);
}

at::Tensor fold_autograd(const at::Tensor& g, GRATICULE_EXCHANGE_ARGUMENTS) {
  return ExchangeFunction::apply(g, GRATICULE_COLLECT_EXCHANGE, false);
}

}  // namespace

at::Tensor gather_rows(const at::Tensor& x, const RowExchange& exchange) { return call(gather_op(), x, exchange); }

at::Tensor fold_rows(const at::Tensor& g, const RowExchange& exchange) { return call(fold_op(), g, exchange); }

TORCH_LIBRARY_FRAGMENT(graticule, m) {
  m.def(
      "gather_rows(Tensor x, int[] offsets, int[] begins, int[] ends, str boundary, int dim, int lon_dim, "
      "bool row_on_pole, bool flip_sign, str group) -> Tensor");
  m.def(
      "fold_rows(Tensor g, int[] offsets, int[] begins, int[] ends, str boundary, int dim, int lon_dim, "
      "bool row_on_pole, bool flip_sign, str group) -> Tensor");
  m.def("balanced_offsets(int rows, int ranks) -> int[]",
        [](int64_t rows, int64_t ranks) { return rows::Partition::balanced(rows, static_cast<int>(ranks)).offsets(); });
}
TORCH_LIBRARY_IMPL(graticule, CompositeExplicitAutograd, m) {
  m.impl("gather_rows", gather_kernel);
  m.impl("fold_rows", fold_kernel);
}
TORCH_LIBRARY_IMPL(graticule, Meta, m) {
  m.impl("gather_rows", gather_meta);
  m.impl("fold_rows", fold_meta);
}
TORCH_LIBRARY_IMPL(graticule, Autograd, m) {
  m.impl("gather_rows", gather_autograd);
  m.impl("fold_rows", fold_autograd);
}

}  // namespace graticule::ops

// graticule::resample_rows and graticule::resample_rows_adjoint: interpolation along the cut dimension as a weighted
// sum of rows, each op the other's derivative. graticule::resample_plane and graticule::resample_plane_adjoint: along
// rows, the cut dimension 2 of four, and columns in one pass, on the CPU in float32 and float64. The group "" is for
// rows that are not cut, all of which every rank has: on the CPU, without a message.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <utility>

#include "graticule/comm/domain.hpp"
#include "graticule/halo/memory_format.hpp"
#include "ops/autograd_support.hpp"
#include "ops/resample.hpp"

namespace graticule::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct Arguments {
  std::string mode;
  bool align_corners;
  std::optional<double> scale;
  std::vector<int64_t> across;  // columns before and after; none: rows alone
  std::optional<double> across_scale;
  bool channels_last;
  std::vector<int64_t> in_offsets, out_offsets;
  int64_t dim;
  std::string group, layer;

  [[nodiscard]] bool plane() const { return !across.empty(); }
  [[nodiscard]] bool uncut() const { return group.empty(); }
};

std::shared_ptr<const ResamplingPlan> find_plan(const at::Tensor& t, const Arguments& a, int rank) {
  ResamplingKey key{a.mode,          a.align_corners, a.scale, {},
                    a.channels_last, t.dim(),         a.dim,   t.scalar_type() == at::kDouble};
  if (a.plane()) key.across = Across{a.across[0], a.across[1], a.across_scale};
  return find_resampling_plan(key, a.in_offsets, a.out_offsets, rank, t.device());
}

at::MemoryFormat format_of(const at::Tensor& t, const Arguments& a) {
  if (!a.plane()) return halo::memory_format(t);
  return a.channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

void check_plane(const at::Tensor& t, const Arguments& a, bool adjoint) {
  if (!a.plane()) return;
  TORCH_CHECK_VALUE(t.dim() == 4 && a.across.size() == 2 && t.size(3) == a.across[adjoint ? 1 : 0], a.layer,
                    ": expected a tensor of 4 dimensions with columns ", c10::IntArrayRef(a.across), ", got ",
                    t.sizes());
}

at::Tensor resample_uncut(const at::Tensor& t, const Arguments& a, bool adjoint) {
  TORCH_CHECK(has_cpu_loops(t), a.layer, ": rows that are not cut are resampled on the CPU in float32 or float64, got ",
              t.scalar_type(), " on ", t.device());
  const auto plan = find_plan(t, a, 0);
  return resample_uncut_on_cpu(t, adjoint ? plan->adjoint : plan->forward, format_of(t, a), a.dim);
}

at::Tensor resample(const at::Tensor& t, const Arguments& a, bool adjoint) {
  if (a.uncut()) return resample_uncut(t, a, adjoint);
  const comm::Domain domain = comm::Domain::from_group_name(a.group);
  check_plane(t, a, adjoint);
  const auto plan = find_plan(t, a, domain.rank());
  const Resampling& resampling = adjoint ? plan->adjoint : plan->forward;
  const ResampleCall call{a.dim, domain, a.layer, adjoint ? "backward" : "forward"};
  if (has_cpu_loops(t)) return resample_on_cpu(t, resampling, format_of(t, a), call);
  TORCH_CHECK(!a.plane(), a.layer, ": a plane is resampled on the CPU in float32 or float64, got ", t.scalar_type(),
              " on ", t.device());
  return resample_by_selection(t, resampling, call);
}

at::Tensor meta(const at::Tensor& t, const Arguments& a, bool adjoint) {
  check_plane(t, a, adjoint);
  const std::vector<int64_t>& offsets = adjoint ? a.in_offsets : a.out_offsets;
  const int rank = a.uncut() ? 0 : comm::Domain::from_group_name(a.group).rank();
  std::vector<int64_t> sizes = t.sizes().vec();
  sizes[a.dim] = rows::Partition(offsets).interval(rank).size();
  if (a.plane()) sizes[3] = a.across[adjoint ? 0 : 1];
  return at::empty(sizes, t.options().memory_format(format_of(t, a)));
}

#define GRATICULE_RESAMPLE_ROWS_ARGUMENTS                                                           \
  c10::string_view mode, bool align_corners, std::optional<double> scale, bool channels_last,       \
      at::IntArrayRef in_offsets, at::IntArrayRef out_offsets, int64_t dim, c10::string_view group, \
      c10::string_view layer
#define GRATICULE_COLLECT_RESAMPLE_ROWS                                                                       \
  Arguments {                                                                                                 \
    std::string(mode), align_corners, scale, {}, {}, channels_last, in_offsets.vec(), out_offsets.vec(), dim, \
        std::string(group), std::string(layer)                                                                \
  }
#define GRATICULE_RESAMPLE_PLANE_ARGUMENTS                                                                             \
  c10::string_view mode, bool align_corners, std::optional<double> scale, at::IntArrayRef across,                      \
      std::optional<double> across_scale, bool channels_last, at::IntArrayRef in_offsets, at::IntArrayRef out_offsets, \
      c10::string_view group, c10::string_view layer
#define GRATICULE_COLLECT_RESAMPLE_PLANE                                                                  \
  Arguments {                                                                                             \
    std::string(mode), align_corners, scale, across.vec(), across_scale, channels_last, in_offsets.vec(), \
        out_offsets.vec(), 2, std::string(group), std::string(layer)                                      \
  }

using RowsSchema = at::Tensor(const at::Tensor&, c10::string_view, bool, std::optional<double>, bool, at::IntArrayRef,
                              at::IntArrayRef, int64_t, c10::string_view, c10::string_view);
using PlaneSchema = at::Tensor(const at::Tensor&, c10::string_view, bool, std::optional<double>, at::IntArrayRef,
                               std::optional<double>, bool, at::IntArrayRef, at::IntArrayRef, c10::string_view,
                               c10::string_view);

template <typename Schema>
c10::TypedOperatorHandle<Schema> find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Schema>();
}

at::Tensor call(const at::Tensor& t, const Arguments& a, bool adjoint) {
  static const auto rows = find_op<RowsSchema>("graticule::resample_rows");
  static const auto rows_adjoint = find_op<RowsSchema>("graticule::resample_rows_adjoint");
  static const auto plane = find_op<PlaneSchema>("graticule::resample_plane");
  static const auto plane_adjoint = find_op<PlaneSchema>("graticule::resample_plane_adjoint");
  if (a.plane()) {
    return (adjoint ? plane_adjoint : plane)
        .call(t, a.mode, a.align_corners, a.scale, a.across, a.across_scale, a.channels_last, a.in_offsets,
              a.out_offsets, a.group, a.layer);
  }
  return (adjoint ? rows_adjoint : rows)
      .call(t, a.mode, a.align_corners, a.scale, a.channels_last, a.in_offsets, a.out_offsets, a.dim, a.group, a.layer);
}

struct ResampleFunction : torch::autograd::Function<ResampleFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& t, const Arguments& a, bool adjoint) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    save_a_mark(ctx, t);
    auto& data = ctx->saved_data;
    data["mode"] = a.mode;
    data["align_corners"] = a.align_corners;
    data["scale"] = a.scale;
    data["across"] = a.across;
    data["across_scale"] = a.across_scale;
    data["channels_last"] = a.channels_last;
    data["in_offsets"] = a.in_offsets;
    data["out_offsets"] = a.out_offsets;
    data["dim"] = a.dim;
    data["group"] = a.group;
    data["layer"] = a.layer;
    data["adjoint"] = adjoint;
    return call(t, a, adjoint);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    ask_for_the_mark(ctx);
    auto& data = ctx->saved_data;
    const Arguments a{data["mode"].toStringRef(),
                      data["align_corners"].toBool(),
                      data["scale"].toOptional<double>(),
                      data["across"].toIntVector(),
                      data["across_scale"].toOptional<double>(),
                      data["channels_last"].toBool(),
                      data["in_offsets"].toIntVector(),
                      data["out_offsets"].toIntVector(),
                      data["dim"].toInt(),
                      data["group"].toStringRef(),
                      data["layer"].toStringRef()};
    return {call(grads[0], a, !data["adjoint"].toBool()), Variable(), Variable()};
  }
};

// What an op of these arguments does at a dispatch key, forward or adjoint.
template <bool adjoint>
struct Rows {
  static at::Tensor kernel(const at::Tensor& t, GRATICULE_RESAMPLE_ROWS_ARGUMENTS) {
    return resample(t, GRATICULE_COLLECT_RESAMPLE_ROWS, adjoint);
  }
  static at::Tensor meta_kernel(const at::Tensor& t, GRATICULE_RESAMPLE_ROWS_ARGUMENTS) {
    return meta(t, GRATICULE_COLLECT_RESAMPLE_ROWS, adjoint);
  }
  static at::Tensor autograd(const at::Tensor& t, GRATICULE_RESAMPLE_ROWS_ARGUMENTS) {
    return ResampleFunction::apply(t, GRATICULE_COLLECT_RESAMPLE_ROWS, adjoint);
  }
};
template <bool adjoint>
struct Plane {
  static at::Tensor kernel(const at::Tensor& t, GRATICULE_RESAMPLE_PLANE_ARGUMENTS) {
    return resample(t, GRATICULE_COLLECT_RESAMPLE_PLANE, adjoint);
  }
  static at::Tensor meta_kernel(const at::Tensor& t, GRATICULE_RESAMPLE_PLANE_ARGUMENTS) {
    return meta(t, GRATICULE_COLLECT_RESAMPLE_PLANE, adjoint);
  }
  static at::Tensor autograd(const at::Tensor& t, GRATICULE_RESAMPLE_PLANE_ARGUMENTS) {
    return ResampleFunction::apply(t, GRATICULE_COLLECT_RESAMPLE_PLANE, adjoint);
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(graticule, m) {
  m.def(
      "resample_rows(Tensor x, str mode, bool align_corners, float? scale, bool channels_last, int[] in_offsets, "
      "int[] out_offsets, int dim, str group, str layer) -> Tensor");
  m.def(
      "resample_rows_adjoint(Tensor g, str mode, bool align_corners, float? scale, bool channels_last, "
      "int[] in_offsets, int[] out_offsets, int dim, str group, str layer) -> Tensor");
  m.def(
      "resample_plane(Tensor x, str mode, bool align_corners, float? scale, int[] across, float? across_scale, "
      "bool channels_last, int[] in_offsets, int[] out_offsets, str group, str layer) -> Tensor");
  m.def(
      "resample_plane_adjoint(Tensor g, str mode, bool align_corners, float? scale, int[] across, "
      "float? across_scale, bool channels_last, int[] in_offsets, int[] out_offsets, str group, str layer) -> Tensor");
}
TORCH_LIBRARY_IMPL(graticule, CompositeExplicitAutograd, m) {
  m.impl("resample_rows", Rows<false>::kernel);
  m.impl("resample_rows_adjoint", Rows<true>::kernel);
  m.impl("resample_plane", Plane<false>::kernel);
  m.impl("resample_plane_adjoint", Plane<true>::kernel);
}
TORCH_LIBRARY_IMPL(graticule, Meta, m) {
  m.impl("resample_rows", Rows<false>::meta_kernel);
  m.impl("resample_rows_adjoint", Rows<true>::meta_kernel);
  m.impl("resample_plane", Plane<false>::meta_kernel);
  m.impl("resample_plane_adjoint", Plane<true>::meta_kernel);
}
TORCH_LIBRARY_IMPL(graticule, Autograd, m) {
  m.impl("resample_rows", Rows<false>::autograd);
  m.impl("resample_rows_adjoint", Rows<true>::autograd);
  m.impl("resample_plane", Plane<false>::autograd);
  m.impl("resample_plane_adjoint", Plane<true>::autograd);
}

}  // namespace graticule::ops

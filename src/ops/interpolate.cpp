#include "graticule/ops/interpolate.hpp"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <string_view>

#include "graticule/comm/domain.hpp"
#include "graticule/halo/memory_format.hpp"
#include "graticule/rows/resampling.hpp"
#include "halo/plan_cache.hpp"
#include "ops/cut_checks.hpp"
#include "ops/resample.hpp"

namespace graticule::ops {
namespace {

using Ints = std::vector<int64_t>;
using Scales = std::vector<std::optional<double>>;

struct Resolved {
  Ints size;     // the whole output's, one entry a spatial dimension
  Scales scale;  // as ATen takes them: only where they are to be used as given
};

constexpr std::array<std::string_view, 7> modes{"nearest",  "nearest-exact", "area",     "linear",
                                                "bilinear", "bicubic",       "trilinear"};
constexpr std::array<std::string_view, 7> mode_dimensions{"345", "345", "345", "3", "4", "4", "5"};  // of tensors

bool is_weighted(const InterpolateArguments& a) {
  return a.mode != "nearest" && a.mode != "nearest-exact" && a.mode != "area";
}

void check_arguments(const at::Tensor& x, const InterpolateArguments& a, const Cut& cut, const comm::Domain& domain) {
  const std::string who = comm::where(domain);
  const size_t dims = x.dim() - 2;
  const auto known = std::find(modes.begin(), modes.end(), a.mode);
  TORCH_CHECK_VALUE(known != modes.end(), cut.layer,
                    ": expected mode nearest, nearest-exact, linear, bilinear, bicubic, trilinear or area, got ",
                    a.mode, who);
  const std::string_view dimensions = mode_dimensions[known - modes.begin()];
  TORCH_CHECK_VALUE(dimensions.find(static_cast<char>('0' + x.dim())) != std::string_view::npos, cut.layer, ": mode ",
                    a.mode, " takes no tensor of ", x.dim(), " dimensions", who);
  TORCH_CHECK_VALUE(is_weighted(a) || !a.align_corners.has_value(), cut.layer, ": mode ", a.mode,
                    " takes no align_corners", who);
  TORCH_CHECK_VALUE(!a.antialias || a.mode == "bilinear" || a.mode == "bicubic", cut.layer,
                    ": antialias goes with modes bilinear and bicubic, got ", a.mode, who);
  TORCH_CHECK_VALUE(a.size.empty() != a.scale_factor.empty(), cut.layer,
                    ": expected one of size and scale_factor, got ", a.size.empty() ? "neither" : "both", who);
  TORCH_CHECK_VALUE(a.size.empty() || a.size.size() == dims, cut.layer, ": expected a size of ", dims, " values, got ",
                    a.size.size(), who);
  TORCH_CHECK_VALUE(a.scale_factor.empty() || a.scale_factor.size() == dims, cut.layer, ": expected a scale_factor of ",
                    dims, " values, got ", a.scale_factor.size(), who);
  for (const double factor : a.scale_factor) {
    TORCH_CHECK_VALUE(std::isfinite(factor), cut.layer, ": expected finite scale factors, got ",
                      c10::ArrayRef<double>(a.scale_factor), who);
  }
  TORCH_CHECK_VALUE(a.size.empty() || !a.recompute_scale_factor.value_or(false), cut.layer,
                    ": recompute_scale_factor goes with scale_factor, got a size", who);
}

Resolved resolve(const at::Tensor& x, const InterpolateArguments& a, const Cut& cut, const comm::Domain& domain) {
  TORCH_CHECK_VALUE(x.size(1) >= 1 || a.mode == "area", cut.layer, ": expected an input of at least one channel, got ",
                    x.sizes(), comm::where(domain));
  Resolved result;
  const bool keep_scale = !a.scale_factor.empty() && !a.recompute_scale_factor.value_or(false) && a.mode != "area";
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    const size_t i = dim - 2;
    const int64_t input = dim == cut.dim ? cut.in_offsets.back() : x.size(dim);
    const int64_t output =
        a.size.empty() ? static_cast<int64_t>(std::floor(static_cast<double>(input) * a.scale_factor[i])) : a.size[i];
    TORCH_CHECK_VALUE(input >= 1 && output >= 1, cut.layer, ": interpolation of ", input, " to ", output,
                      " in dimension ", dim, comm::where(domain));
    // Its forward then mixes up the rows that its backward gets right: there is no uncut answer to be equal to.
    TORCH_CHECK_VALUE(!(a.antialias && dim == x.dim() - 1 && output == 1), cut.layer,
                      ": antialiased interpolation to a last dimension of 1 is wrong in PyTorch itself",
                      comm::where(domain));
    // On an H200 with torch 2.11 the gradient of channels_last rows was another one than the uncut layer's.
    TORCH_CHECK_NOT_IMPLEMENTED(!(keep_scale && a.mode == "nearest-exact" && !x.device().is_cpu() &&
                                  halo::memory_format(x) != at::MemoryFormat::Contiguous),
                                cut.layer, ": mode nearest-exact by a scale factor on ", x.device(),
                                ": expected contiguous memory or a size, got channels_last", comm::where(domain));
    // There a GPU's kernels take rows as they are forward, but not backward, or by the sizes of all dimensions.
    TORCH_CHECK_NOT_IMPLEMENTED(!(keep_scale && a.scale_factor[i] != 1 && input == output && !x.device().is_cpu()),
                                cut.layer, ": a scale factor of ", a.scale_factor[i], " that keeps ", input,
                                " rows as many, on ", x.device(), ": expected another factor or a size",
                                comm::where(domain));
    result.size.push_back(output);
    result.scale.push_back(keep_scale ? std::optional<double>(a.scale_factor[i]) : std::nullopt);
  }
  return result;
}

at::Tensor aten_interpolate(const at::Tensor& x, const InterpolateArguments& a, const Ints& size, const Scales& s) {
  const bool align = a.align_corners.value_or(false);
  const int64_t dims = x.dim() - 2;
  if (a.mode == "nearest") {
    if (dims == 1) return at::upsample_nearest1d(x, size, s[0]);
    if (dims == 2) return at::upsample_nearest2d(x, size, s[0], s[1]);
    return at::upsample_nearest3d(x, size, s[0], s[1], s[2]);
  }
  if (a.mode == "nearest-exact") {
    if (dims == 1) return at::_upsample_nearest_exact1d(x, size, s[0]);
    if (dims == 2) return at::_upsample_nearest_exact2d(x, size, s[0], s[1]);
    return at::_upsample_nearest_exact3d(x, size, s[0], s[1], s[2]);
  }
  if (a.mode == "area") {
    if (dims == 1) return at::adaptive_avg_pool1d(x, size);
    return dims == 2 ? at::adaptive_avg_pool2d(x, size) : at::adaptive_avg_pool3d(x, size);
  }
  if (a.mode == "linear") return at::upsample_linear1d(x, size, align, s[0]);
  if (a.mode == "trilinear") return at::upsample_trilinear3d(x, size, align, s[0], s[1], s[2]);
  if (a.mode == "bilinear") {
    return a.antialias ? at::_upsample_bilinear2d_aa(x, size, align, s[0], s[1])
                       : at::upsample_bilinear2d(x, size, align, s[0], s[1]);
  }
  return a.antialias ? at::_upsample_bicubic2d_aa(x, size, align, s[0], s[1])
                     : at::upsample_bicubic2d(x, size, align, s[0], s[1]);
}

// Of the whole tensor.
int64_t rows_before(const at::Tensor& x, const Cut& cut, int64_t dim) {
  return dim == cut.dim ? cut.in_offsets.back() : x.size(dim);
}

// ATen's bicubic backward copies where no size changes, whatever the scale factors; its forward does not.
bool copies_gradient(const at::Tensor& x, const InterpolateArguments& a, const Resolved& to, const Cut& cut) {
  if (a.mode != "bicubic" || a.antialias) return false;
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    if (to.size[dim - 2] != rows_before(x, cut, dim)) return false;
  }
  return true;
}

std::string row_mode(const InterpolateArguments& a) {
  if (a.mode == "bilinear") return a.antialias ? "linear-antialias" : "linear";
  if (a.mode == "bicubic") return a.antialias ? "cubic-antialias" : "cubic";
  return a.mode == "trilinear" ? "linear" : a.mode;
}

// Nearest by a factor that leaves a dimension as long as it was, and is not 1.
bool keeps_by_factor(const at::Tensor& x, const InterpolateArguments& a, const Resolved& to, const Cut& cut) {
  if (a.mode != "nearest") return false;
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    if (to.scale[dim - 2].value_or(1) != 1 && to.size[dim - 2] == rows_before(x, cut, dim)) return true;
  }
  return false;
}

// ATen's kernels differ there: one moves pixels, all channels of one, and copies the dimension; the other goes by the
// factor. The first is for channels that come last, more than three, and for small planes (ATen/native/cpu,
// UpSampleKernel.cpp, _use_vectorized_kernel_cond_2d and _3d).
bool moves_pixels(const at::Tensor& x, const Resolved& to) {
  if (x.dim() == 4 && to.size[0] + to.size[1] <= 128) return true;
  return x.dim() > 3 && x.size(1) > 3 && halo::memory_format(x) != at::MemoryFormat::Contiguous;
}

std::string row_mode(const at::Tensor& x, const InterpolateArguments& a, const Resolved& to, const Cut& cut) {
  if (keeps_by_factor(x, a, to, cut) && moves_pixels(x, to)) return "nearest-copied";
  return copies_gradient(x, a, to, cut) ? "cubic-copied-back" : row_mode(a);
}

// One dimension interpolated by a matrix of ATen's weights. For the few cases in which ATen's own kernels decide by the
// sizes of all dimensions what to do with one, so that a shard would be treated otherwise than the whole.
at::Tensor interpolate_by_matrix(const at::Tensor& x, int64_t dim, const InterpolateArguments& a, int64_t output,
                                 std::optional<double> scale) {
  static const std::map<std::string, rows::ResamplingKind> kinds{
      {"linear", rows::ResamplingKind::linear},
      {"cubic", rows::ResamplingKind::cubic},
      {"linear-antialias", rows::ResamplingKind::linear_antialias},
      {"cubic-antialias", rows::ResamplingKind::cubic_antialias}};
  const rows::ResamplingGrid grid{x.size(dim), output, a.align_corners.value_or(false), scale};
  at::Tensor weights = at::zeros({x.size(dim), output}, at::kDouble);
  auto w = weights.accessor<double, 2>();
  for (int64_t row = 0; row < output; ++row) {
    const auto taps = rows::resampling_taps<double>(kinds.at(row_mode(a)), grid, row);
    for (size_t tap = 0; tap < taps.rows.size(); ++tap) w[taps.rows[tap]][row] += taps.weights[tap];
  }
  return at::matmul(x.movedim(dim, -1), weights.to(x.options())).movedim(-1, dim);
}

// Across the cut: this rank's rows as they are, the other dimensions interpolated.
at::Tensor interpolate_across_by_aten(const at::Tensor& x, const InterpolateArguments& a, const Resolved& to,
                                      const Cut& cut) {
  Ints size = to.size;
  Scales scale = to.scale;
  size[cut.dim - 2] = x.size(cut.dim);
  scale[cut.dim - 2] = std::nullopt;
  at::Tensor result = x;
  const bool cubic = a.mode == "bicubic" && !a.antialias;
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    const size_t i = dim - 2;
    const bool copied_by_sizes = cubic && scale[i].has_value() && size[i] == x.size(dim);
    const bool one_row = a.antialias && x.size(cut.dim) == 1 && size[i] != x.size(dim);
    if (dim == cut.dim || !(copied_by_sizes || one_row)) continue;
    result = interpolate_by_matrix(result, dim, a, size[i], scale[i]);
    scale[i] = std::nullopt;
  }
  bool changes = false;
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    changes = changes || size[dim - 2] != result.size(dim) || scale[dim - 2].has_value();
  }
  if (!changes) return result;
  if (x.numel() != 0) return aten_interpolate(result, a, size, scale);
  // ATen refuses a shard of no rows; a selection has the right shape and keeps the graph whole.
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    if (dim == cut.dim) continue;
    result = result.index_select(dim, at::zeros({size[dim - 2]}, x.options().dtype(at::kLong)));
  }
  return result;
}

struct RowsCall {
  std::string mode;
  std::optional<double> scale;
  Ints before, after;  // offsets
  int64_t dim;
  std::string group;  // "": rows that are not cut
};

at::Tensor resample_rows(const at::Tensor& x, const RowsCall& call, const InterpolateArguments& a, bool channels_last,
                         const std::string& layer) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("graticule::resample_rows", "")
          .typed<at::Tensor(const at::Tensor&, c10::string_view, bool, std::optional<double>, bool, at::IntArrayRef,
                            at::IntArrayRef, int64_t, c10::string_view, c10::string_view)>();
  return op.call(x, call.mode, a.align_corners.value_or(false), call.scale, channels_last, call.before, call.after,
                 call.dim, call.group, layer);
}

// ATen multiplies by zero in a dimension that keeps its size, the cut one or another, and would do so for the rows of a
// shard where the whole tensor's change: what is infinite would no longer be. So it is not asked where it multiplies.
bool multiplies_by_zero(const at::Tensor& x, const InterpolateArguments& a) {
  return is_weighted(a) && (has_cpu_loops(x) || x.is_meta());
}

// A dimension of the same size that linear interpolation leaves alone: the zeros are multiplied by along the cut.
bool keeps_alone(const std::string& mode, int64_t before, int64_t after) { return mode == "linear" && before == after; }

at::Tensor interpolate_across(const at::Tensor& x, const InterpolateArguments& a, const Resolved& to, const Cut& cut,
                              bool channels_last, const std::string& mode) {
  // Nor where it would choose its kernel by the size of a shard.
  const bool by_aten = !multiplies_by_zero(x, a) && !(x.device().is_cpu() && keeps_by_factor(x, a, to, cut));
  if (by_aten) return interpolate_across_by_aten(x, a, to, cut);
  at::Tensor result = x;
  // The last dimension first, where a value costs most: mostly there will be more of them.
  for (int64_t dim = x.dim() - 1; dim >= 2; --dim) {
    const int64_t before = x.size(dim);
    const int64_t after = to.size[dim - 2];
    if (dim == cut.dim || keeps_alone(mode, before, after)) continue;
    const RowsCall call{mode, to.scale[dim - 2], {0, before}, {0, after}, dim, ""};
    result = resample_rows(result, call, a, channels_last, cut.layer);
  }
  return result;
}

std::string mode_along(const at::Tensor& x, const InterpolateArguments& a, const Resolved& to, const Cut& cut,
                       const std::string& mode) {
  bool alone = false;
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    alone = alone || (dim != cut.dim && keeps_alone(mode, x.size(dim), to.size[dim - 2]));
  }
  return alone && multiplies_by_zero(x, a) ? "linear-with-zeros" : mode;
}

at::ScalarType ask_aten_type(const at::Tensor& x, const InterpolateArguments& a) {
  const at::NoGradGuard no_grad;
  Ints sizes(x.dim(), 2);
  return aten_interpolate(at::zeros(sizes, x.options()), a, Ints(x.dim() - 2, 3), Scales(x.dim() - 2)).scalar_type();
}

// The dtype in which ATen's own op would run here, under autocast or not: asked of ATen, on a few elements, and
// remembered. Asks too whether ATen knows this mode in this dtype: where it does not, there is no uncut answer.
at::ScalarType aten_type(const at::Tensor& x, const InterpolateArguments& a) {
  const c10::DeviceType device = x.device().type();
  const bool autocast = under_autocast(x);
  const std::array<int64_t, 7> key{std::find(modes.begin(), modes.end(), a.mode) - modes.begin(),
                                   static_cast<int64_t>(a.antialias),
                                   x.dim(),
                                   static_cast<int64_t>(x.scalar_type()),
                                   static_cast<int64_t>(device),
                                   static_cast<int64_t>(autocast),
                                   autocast ? static_cast<int64_t>(at::autocast::get_autocast_dtype(device)) : 0};
  static std::mutex mutex;
  static std::map<std::array<int64_t, 7>, at::ScalarType> types;
  {
    const std::lock_guard lock(mutex);
    if (const auto found = types.find(key); found != types.end()) return found->second;
  }
  const at::ScalarType type = ask_aten_type(x, a);
  const std::lock_guard lock(mutex);
  return types.try_emplace(key, type).first->second;
}

at::Tensor interpolate_plane(const at::Tensor& x, const InterpolateArguments& a, const Resolved& to, const Cut& cut,
                             bool channels_last, const rows::Partition& output) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("graticule::resample_plane", "")
                             .typed<at::Tensor(const at::Tensor&, c10::string_view, bool, std::optional<double>,
                                               at::IntArrayRef, std::optional<double>, bool, at::IntArrayRef,
                                               at::IntArrayRef, c10::string_view, c10::string_view)>();
  return op.call(x, row_mode(x, a, to, cut), a.align_corners.value_or(false), to.scale[0], {x.size(3), to.size[1]},
                 to.scale[1], channels_last, cut.in_offsets, output.offsets(), cut.group, cut.layer);
}

// Rows and columns one after the other, the dimension first that makes less of it.
at::Tensor interpolate_in_two(const at::Tensor& x, const InterpolateArguments& a, const Resolved& to, const Cut& cut,
                              bool channels_last, const rows::Partition& output) {
  const std::string mode = row_mode(x, a, to, cut);
  const RowsCall rows{
      mode_along(x, a, to, cut, mode), to.scale[cut.dim - 2], cut.in_offsets, output.offsets(), cut.dim, cut.group};
  const auto along = [&](const at::Tensor& t) { return resample_rows(t, rows, a, channels_last, cut.layer); };
  const auto across = [&](const at::Tensor& t) { return interpolate_across(t, a, to, cut, channels_last, mode); };
  return to.size[cut.dim - 2] < cut.in_offsets.back() ? across(along(x)) : along(across(x));
}

// What a call is told beside its tensor, as its schema has it.
struct View {
  at::IntArrayRef size;
  c10::ArrayRef<double> scale_factor;
  std::string_view mode;
  std::optional<bool> align_corners, recompute_scale_factor;
  bool antialias;
  at::IntArrayRef in_offsets, out_offsets;
  int64_t dim;
  std::string_view group, layer;
};

// A call worked out: once for all calls with equal facts.
struct Ready {
  InterpolateArguments arguments;
  Cut cut;
  Resolved to;
  rows::Partition output;
  at::ScalarType type;
};

std::shared_ptr<const Ready> make_ready(const at::Tensor& x, const View& v, const comm::Domain& domain) {
  InterpolateArguments a{v.size.vec(),    v.scale_factor.vec(),     std::string(v.mode),
                         v.align_corners, v.recompute_scale_factor, v.antialias};
  Cut cut{v.in_offsets.vec(), v.out_offsets.vec(), v.dim, std::string(v.group), std::string(v.layer)};
  check_cut(x, cut, domain);
  check_arguments(x, a, cut, domain);
  Resolved to = resolve(x, a, cut, domain);
  rows::Partition output = checked_output(cut, to.size[cut.dim - 2], domain);
  const at::ScalarType type = aten_type(x, a);
  return std::make_shared<const Ready>(Ready{std::move(a), std::move(cut), std::move(to), std::move(output), type});
}

std::shared_ptr<const Ready> find_ready(const at::Tensor& x, const View& v, const comm::Domain& domain) {
  static halo::PlanCache<Ready> known;
  halo::PlanKey key;
  const auto add_choice = [&](std::optional<bool> choice) { key.add(choice.has_value() ? int{*choice} : -1); };
  key.add(v.size).add(v.scale_factor.size());
  for (const double factor : v.scale_factor) key.add(factor);
  key.add(v.mode).add(v.antialias).add(v.in_offsets).add(v.out_offsets).add(v.dim).add(v.group).add(v.layer);
  add_choice(v.align_corners);
  add_choice(v.recompute_scale_factor);
  const c10::DeviceType device = x.device().type();
  const bool autocast = under_autocast(x);
  key.add(static_cast<int64_t>(device)).add(autocast).add(domain.rank()).add(domain.size());
  key.add(autocast ? static_cast<int64_t>(at::autocast::get_autocast_dtype(device)) : -1);
  key.add(static_cast<int64_t>(x.scalar_type())).add(static_cast<int64_t>(halo::memory_format(x))).add(x.dim());
  for (int64_t d = 0; d < x.dim(); ++d) key.add(x.size(d));
  return known.find(key, [&] { return make_ready(x, v, domain); });
}

at::Tensor call(const at::Tensor& x, const View& view) {
  const comm::Domain domain = comm::Domain::from_group_name(std::string(view.group));
  const auto ready = find_ready(x, view, domain);
  const auto& [a, cut, to, output, type] = *ready;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  // Rows and columns round one after the other; in a half type that would be one rounding too many.
  const at::Tensor input = x.to(at::isReducedFloatingType(type) ? at::kFloat : type);
  const auto format = halo::memory_format(x);
  const bool channels_last = format != at::MemoryFormat::Contiguous;
  const bool plane = x.device().is_cpu() && x.dim() == 4 && cut.dim == 2;
  const at::Tensor result = (plane ? interpolate_plane : interpolate_in_two)(input, a, to, cut, channels_last, output);
  // ATen's three-dimensional area pooling gives a contiguous tensor, whatever it is given.
  const bool loses_format = a.mode == "area" && x.dim() == 5;
  return result.to(type).contiguous(loses_format ? at::MemoryFormat::Contiguous : format);
}

}  // namespace

at::Tensor interpolate(const at::Tensor& x, const InterpolateArguments& a, const Cut& cut) {
  return call(x, {a.size, a.scale_factor, a.mode, a.align_corners, a.recompute_scale_factor, a.antialias,
                  cut.in_offsets, cut.out_offsets, cut.dim, cut.group, cut.layer});
}

TORCH_LIBRARY_FRAGMENT(graticule, m) {
  m.def(
      "interpolate(Tensor x, int[] size, float[] scale_factor, str mode, bool? align_corners, "
      "bool? recompute_scale_factor, bool antialias, int[] in_offsets, int[] out_offsets, int dim, str group, "
      "str layer) -> Tensor",
      [](const at::Tensor& x, at::IntArrayRef size, c10::ArrayRef<double> scale_factor, c10::string_view mode,
         std::optional<bool> align_corners, std::optional<bool> recompute_scale_factor, bool antialias,
         at::IntArrayRef in_offsets, at::IntArrayRef out_offsets, int64_t dim, c10::string_view group,
         c10::string_view layer) {
        return call(x, {size, scale_factor, mode, align_corners, recompute_scale_factor, antialias, in_offsets,
                        out_offsets, dim, group, layer});
      });
}

}  // namespace graticule::ops

#include "ops/resampling_plan.hpp"

#include <ATen/ATen.h>
#include <ATen/Version.h>
#include <ATen/native/UpSample.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "halo/plan_cache.hpp"
#include "ops/resample_loops.hpp"

namespace graticule::ops {
namespace {

using rows::Interval;
using rows::Partition;
using rows::Taps;

// One dimension's interpolation, for every row of the whole grid.
struct AxisTaps {
  std::vector<Taps<double>> forward, adjoint;
};

// Columns enough that ATen takes its kernel for large planes, of two that it has.
constexpr int64_t many_columns = 129;

// ATen's nearest kernels round their coordinates in several ways, so each is asked which row it takes: it is given the
// row numbers to interpolate.
std::vector<Taps<double>> nearest_taps(const ResamplingKey& key, int64_t input, int64_t output, at::Device device) {
  const auto options = at::TensorOptions().device(device).dtype(key.wide ? at::kDouble : at::kFloat);
  TORCH_CHECK(key.wide || input < (int64_t{1} << 24), "interpolation of ", input, " rows by mode ", key.mode,
              " needs float64");
  const bool general = key.mode == "nearest" && input == output;
  // Four channels, since a channels_last kernel wants several.
  std::vector<int64_t> sizes(key.tensor_dims, 1);
  sizes[1] = general ? 1 : 4;
  sizes[key.dim] = input;
  std::vector<int64_t> shape(key.tensor_dims, 1);
  shape[key.dim] = input;
  const bool channels_last = key.channels_last && !general;
  const auto format = !channels_last         ? at::MemoryFormat::Contiguous
                      : key.tensor_dims == 4 ? at::MemoryFormat::ChannelsLast
                                             : at::MemoryFormat::ChannelsLast3d;
  const at::Tensor numbers = at::arange(input, options).reshape(shape).expand(sizes).contiguous(format);
  std::vector<int64_t> size(key.tensor_dims - 2, general && key.tensor_dims == 4 ? many_columns : 1);
  size[key.dim - 2] = output;
  std::vector<std::optional<double>> scale(key.tensor_dims - 2);
  scale[key.dim - 2] = key.scale;
  const bool exact = key.mode == "nearest-exact";
  at::Tensor taken;
  if (key.tensor_dims == 3) {
    taken = exact ? at::_upsample_nearest_exact1d(numbers, size, scale[0])
                  : at::upsample_nearest1d(numbers, size, scale[0]);
  } else if (key.tensor_dims == 4) {
    taken = exact ? at::_upsample_nearest_exact2d(numbers, size, scale[0], scale[1])
                  : at::upsample_nearest2d(numbers, size, scale[0], scale[1]);
  } else {
    taken = exact ? at::_upsample_nearest_exact3d(numbers, size, scale[0], scale[1], scale[2])
                  : at::upsample_nearest3d(numbers, size, scale[0], scale[1], scale[2]);
  }
  taken = taken.select(0, 0).select(0, 0);
  for (int64_t d = 0; taken.dim() > 1; ++d) {
    if (d != key.dim - 2) taken = taken.select(d < key.dim - 2 ? 0 : 1, 0);
  }
  const at::Tensor rows = taken.to(at::kCPU, at::kLong).contiguous();
  std::vector<Taps<double>> result;
  for (int64_t row = 0; row < output; ++row) result.push_back({{rows.const_data_ptr<int64_t>()[row]}, {1.0}});
  return result;
}

// The rows that ATen's nearest backward adds to, by its own formula.
std::vector<Taps<double>> nearest_adjoint_taps(const ResamplingKey& key, int64_t input, int64_t output) {
  const auto source = key.mode == "nearest-exact" ? at::native::nearest_exact_idx : at::native::nearest_idx;
  std::vector<Taps<double>> result;
  for (int64_t row = 0; row < output; ++row) result.push_back({{source(row, input, output, key.scale)}, {1.0}});
  return result;
}

rows::ResamplingKind kind_of(const std::string& mode) {
  if (mode == "linear" || mode == "linear-with-zeros") return rows::ResamplingKind::linear;
  if (mode == "cubic" || mode == "cubic-copied-back") return rows::ResamplingKind::cubic;
  if (mode == "linear-antialias") return rows::ResamplingKind::linear_antialias;
  if (mode == "cubic-antialias") return rows::ResamplingKind::cubic_antialias;
  TORCH_CHECK_VALUE(mode == "area", "unknown interpolation ", mode);
  return rows::ResamplingKind::area;
}

// Whether ATen's code multiplies and adds at once: what is compiled for the build's own instruction set, and the
// kernels that are compiled for several.
#if defined(__x86_64__)
constexpr bool base_fuses = false;
bool kernels_fuse() {
  static const std::string capability = at::get_cpu_capability();
  return capability != "DEFAULT" && capability != "NO AVX";
}
#else
constexpr bool base_fuses = true;
bool kernels_fuse() { return true; }
#endif

template <typename Real>
Taps<double> taps_in(rows::ResamplingKind kind, const rows::ResamplingGrid& grid, int64_t row) {
  const Taps<Real> taps = rows::resampling_taps<Real>(kind, grid, row);
  return {taps.rows, std::vector<double>(taps.weights.begin(), taps.weights.end())};
}

std::vector<Taps<double>> weighted_taps(const ResamplingKey& key, const rows::ResamplingGrid& grid) {
  const rows::ResamplingKind kind = kind_of(key.mode);
  std::vector<Taps<double>> result;
  for (int64_t row = 0; row < grid.output; ++row) {
    result.push_back(key.wide ? taps_in<double>(kind, grid, row) : taps_in<float>(kind, grid, row));
  }
  return result;
}

std::vector<Taps<double>> identity_taps(int64_t rows) {
  std::vector<Taps<double>> result;
  for (int64_t row = 0; row < rows; ++row) result.push_back({{row}, {1.0}});
  return result;
}

// Every source of a row is multiplied by zero too.
std::vector<Taps<double>> with_zeros(std::vector<Taps<double>> taps) {
  for (Taps<double>& row : taps) {
    const Taps<double> given = row;
    for (const int64_t source : given.rows) {
      bool there = false;
      for (size_t i = 0; i < row.rows.size(); ++i) there = there || (row.rows[i] == source && row.weights[i] == 0);
      if (there) continue;
      row.rows.push_back(source);
      row.weights.push_back(0);
    }
  }
  return taps;
}

AxisTaps cpu_taps(const ResamplingKey& key, int64_t input, int64_t output) {
  const bool antialias = key.mode == "linear-antialias" || key.mode == "cubic-antialias";
  rows::ResamplingGrid grid{input, output, key.align_corners, key.scale};
  // The antialiased kernels round the middle of an output row before they use it.
  grid.fused = kernels_fuse() && !antialias;
  grid.fused_weights = kernels_fuse();
  grid.narrow_floor = true;
  AxisTaps taps;
  taps.forward = taps.adjoint = weighted_taps(key, grid);
  if (key.mode == "cubic") {
    // ATen's bicubic backward is none of the kernels that are compiled for several instruction sets.
    grid.fused = grid.fused_weights = base_fuses;
    grid.unbound_fraction = true;
    taps.adjoint = weighted_taps(key, grid);
  }
  if (key.mode == "cubic-copied-back") taps.adjoint = identity_taps(output);
  if (key.mode == "linear-with-zeros") taps.forward = taps.adjoint = with_zeros(std::move(taps.forward));
  if (antialias && input == output) taps.forward = identity_taps(output);
  return taps;
}

AxisTaps taps_elsewhere(const ResamplingKey& key, int64_t input, int64_t output) {
  AxisTaps taps;
  taps.forward = taps.adjoint = weighted_taps(key, {input, output, key.align_corners, key.scale, true, true});
  const bool antialias = key.mode == "linear-antialias" || key.mode == "cubic-antialias";
  if (key.mode == "cubic-copied-back") taps.adjoint = identity_taps(output);
  if (input == output && (antialias || key.mode == "linear")) taps.forward = identity_taps(output);
  if (input == output && key.mode == "linear") taps.adjoint = identity_taps(output);
  return taps;
}

// Of the dimension that the key calls cut.
AxisTaps axis_taps(ResamplingKey key, int64_t input, int64_t output, at::Device device) {
  const bool copies_kept = key.mode == "nearest-copied";
  if (copies_kept) key.mode = "nearest";
  if (key.mode == "nearest" || key.mode == "nearest-exact") {
    AxisTaps taps;
    taps.forward = copies_kept && input == output ? identity_taps(output) : nearest_taps(key, input, output, device);
    taps.adjoint = device.is_cpu() ? nearest_adjoint_taps(key, input, output) : taps.forward;
    return taps;
  }
  return device.is_cpu() ? cpu_taps(key, input, output) : taps_elsewhere(key, input, output);
}

AxisTaps column_taps(ResamplingKey key, const Across& across, at::Device device) {
  key.dim = 3;
  key.scale = across.scale;
  if (key.mode == "linear-with-zeros") {
    const std::vector<Taps<double>> kept = identity_taps(across.output);
    return {kept, kept};
  }
  return axis_taps(key, across.input, across.output, device);
}

// Source rows that each rank's result rows are made of.
std::vector<Interval> forward_needs(const std::vector<Taps<double>>& taps, const Partition& results) {
  std::vector<Interval> needs(results.ranks());
  for (int rank = 0; rank < results.ranks(); ++rank) {
    const Interval own = results.interval(rank);
    for (int64_t row = own.begin; row < own.end; ++row) needs[rank] = hull(needs[rank], taps[row].support());
  }
  return needs;
}

// Rows of the interpolated tensor that each rank's rows are part of.
std::vector<Interval> adjoint_needs(const std::vector<Taps<double>>& taps, const Partition& results) {
  std::vector<Interval> needs(results.ranks());
  for (size_t row = 0; row < taps.size(); ++row) {
    const auto at = static_cast<int64_t>(row);
    for (int rank = 0; rank < results.ranks(); ++rank) {
      if (intersect(taps[row].support(), results.interval(rank)).empty()) continue;
      needs[rank] = hull(needs[rank], {at, at + 1});
    }
  }
  return needs;
}

std::shared_ptr<const rows::ExchangePlan> outside_plan(const Partition& sources, const std::vector<Interval>& needs,
                                                       int rank) {
  std::vector<rows::Wanted> parts(2);
  for (int peer = 0; peer < sources.ranks(); ++peer) {
    const Interval own = sources.interval(peer);
    const Interval before{needs[peer].begin, std::min(needs[peer].end, own.begin)};
    const Interval after{std::max(needs[peer].begin, own.end), needs[peer].end};
    parts[0].push_back(before.empty() ? Interval{own.begin, own.begin} : before);
    parts[1].push_back(after.empty() ? Interval{own.end, own.end} : after);
  }
  return std::make_shared<const rows::ExchangePlan>(sources, std::move(parts), rows::Boundary::none, rank);
}

// The first run of result rows all of whose sources lie in `own`.
Interval early_rows(const ResampleTable& rows, Interval own) {
  const auto inside = [&](int64_t row) {
    const Interval support = rows.support(row, row + 1);
    return support.empty() || intersect(support, own) == support;
  };
  Interval early{0, 0};
  while (early.begin < rows.size() && !inside(early.begin)) ++early.begin;
  early.end = early.begin;
  while (early.end < rows.size() && inside(early.end)) ++early.end;
  return early;
}

comm::Facts facts_of(const ResamplingKey& key, const Partition& input, const Partition& output, const char* direction) {
  comm::Facts facts;
  facts.add(direction).add(key.mode).add(static_cast<int64_t>(key.align_corners)).add(key.scale.value_or(0.0));
  facts.add(input.offsets()).add(output.offsets());
  if (key.across.has_value()) {
    facts.add(key.across->input).add(key.across->output).add(key.across->scale.value_or(0.0));
  }
  return facts;
}

Resampling make_rows(ResampleTable own_rows, std::vector<Interval> needs, const Partition& sources, int rank,
                     const comm::Facts& facts) {
  Resampling result;
  result.rows = std::move(own_rows);
  result.needs = std::move(needs);
  result.outside = outside_plan(sources, result.needs, rank);
  result.early = early_rows(result.rows, result.own());
  result.row_line = line_table_of(result.rows, result.needed());
  result.facts = facts;
  return result;
}

// What the orders read and write decides. A value of a resampled line counts for several: its source is looked up.
ResampleOrder cheapest_order(const ResampleTable& rows, const ResampleTable& columns, int64_t source_width,
                             double look_up) {
  const auto row_taps = static_cast<double>(rows.sources.size());
  const auto column_taps = static_cast<double>(columns.sources.size());
  const auto width = static_cast<double>(columns.size());
  const auto result_rows = static_cast<double>(rows.size());
  const auto source_rows = static_cast<double>(rows.support(0, rows.size()).size());
  const double rows_first =
      (row_taps + result_rows) * static_cast<double>(source_width) + result_rows * column_taps * look_up;
  const double columns_first = source_rows * (column_taps * look_up + width) + row_taps * width;
  const bool can_at_once = look_up == 1 && rows.most_taps() * columns.most_taps() <= pixel_taps;
  if (can_at_once && row_taps * column_taps < std::min(rows_first, columns_first)) return ResampleOrder::at_once;
  return columns_first < rows_first ? ResampleOrder::columns_first : ResampleOrder::rows_first;
}

void add_columns(Resampling& r, ResampleTable columns, int64_t source_width, const ResampleTable& all_rows) {
  r.has_columns = !columns.is_identity(source_width);
  if (!r.has_columns) return;
  r.line_order = cheapest_order(all_rows, columns, source_width, 4);
  r.pixel_order = cheapest_order(all_rows, columns, source_width, 1);
  r.column_line = line_table_of(columns, {0, source_width});
  r.columns = std::move(columns);
}

ResamplingPlan make_plan(ResamplingKey key, const Partition& input, const Partition& output, int rank,
                         at::Device device) {
  const bool keeps_columns = key.across.has_value() && key.across->input == key.across->output;
  if (key.mode == "linear" && keeps_columns) key.mode = "linear-with-zeros";
  const AxisTaps taps = axis_taps(key, input.rows(), output.rows(), device);
  ResamplingPlan plan{
      make_rows(table_of(taps.forward, output.interval(rank)), forward_needs(taps.forward, output), input, rank,
                facts_of(key, input, output, "forward")),
      make_rows(transposed_table_of(taps.adjoint, input.interval(rank)), adjoint_needs(taps.adjoint, input), output,
                rank, facts_of(key, input, output, "backward"))};
  if (!key.across.has_value()) return plan;
  const Across across = *key.across;
  const AxisTaps columns = column_taps(key, across, device);
  add_columns(plan.forward, table_of(columns.forward, {0, across.output}), across.input,
              table_of(taps.forward, {0, output.rows()}));
  add_columns(plan.adjoint, transposed_table_of(columns.adjoint, {0, across.input}), across.output,
              transposed_table_of(taps.adjoint, {0, input.rows()}));
  return plan;
}

int64_t number_of(std::string_view mode) {
  static constexpr std::array<std::string_view, 10> modes{
      "nearest", "nearest-copied",    "nearest-exact",    "linear",          "linear-with-zeros",
      "cubic",   "cubic-copied-back", "linear-antialias", "cubic-antialias", "area"};
  return std::find(modes.begin(), modes.end(), mode) - modes.begin();
}

halo::PlanKey words_of(const ResamplingKey& key, at::IntArrayRef in_offsets, at::IntArrayRef out_offsets, int rank,
                       at::Device device) {
  halo::PlanKey words;
  const auto add_scale = [&](const std::optional<double>& scale) {
    words.add(scale.has_value()).add(scale.value_or(0.0));
  };
  for (const bool flag : {key.align_corners, key.channels_last, key.wide, key.across.has_value()}) {
    words.add(flag);
  }
  words.add(number_of(key.mode)).add(key.tensor_dims).add(key.dim).add(rank);
  words.add(static_cast<int64_t>(device.type())).add(device.index());
  add_scale(key.scale);
  if (key.across.has_value()) {
    words.add(key.across->input).add(key.across->output);
    add_scale(key.across->scale);
  }
  words.add(in_offsets).add(out_offsets);
  return words;
}

}  // namespace

std::shared_ptr<const ResamplingPlan> find_resampling_plan(const ResamplingKey& key, at::IntArrayRef in_offsets,
                                                           at::IntArrayRef out_offsets, int rank, at::Device device) {
  static halo::PlanCache<ResamplingPlan> plans;
  return plans.find(words_of(key, in_offsets, out_offsets, rank, device), [&] {
    const Partition input(in_offsets.vec());
    const Partition output(out_offsets.vec());
    for (const Partition& cut : {input, output}) {
      TORCH_CHECK_VALUE(rank < cut.ranks(), "interpolation: rows cut over ", cut.ranks(), " ranks, called on rank ",
                        rank);
    }
    return std::make_shared<const ResamplingPlan>(make_plan(key, input, output, rank, device));
  });
}

}  // namespace graticule::ops

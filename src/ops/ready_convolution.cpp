#include "ops/ready_convolution.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "graticule/rows/stencil.hpp"
#include "halo/plan_cache.hpp"
#include "ops/cut_checks.hpp"
#include "ops/padding.hpp"
#include "ops/strip_plan.hpp"

namespace graticule::ops {
namespace {

using Ints = std::vector<int64_t>;
using Ready = std::shared_ptr<const ReadyCall>;

Ready ready_call(ReadyConvolution convolution) {
  return std::make_shared<const ReadyCall>(ReadyCall{std::move(convolution)});
}

Ready padded_copy(const char* reason) { return std::make_shared<const ReadyCall>(ReadyCall{std::nullopt, reason}); }

bool all_zero(const Ints& values) {
  return std::all_of(values.begin(), values.end(), [](int64_t value) { return value == 0; });
}

void check_list(const Ints& values, int64_t dims, int64_t least, const char* name, const Cut& cut,
                const comm::Domain& domain) {
  TORCH_CHECK_VALUE(static_cast<int64_t>(values.size()) == dims, cut.layer, ": expected ", dims, " values of ", name,
                    ", got ", values.size(), comm::where(domain));
  for (const int64_t value : values) {
    TORCH_CHECK_VALUE(value >= least, cut.layer, ": expected every ", name, " to be at least ", least, ", got ",
                      c10::IntArrayRef(values), comm::where(domain));
  }
}

void check_weight(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias, int64_t groups,
                  bool transposed, const Cut& cut, const comm::Domain& domain) {
  TORCH_CHECK_VALUE(weight.dim() == x.dim(), cut.layer, ": expected an input of ", weight.dim(),
                    " dimensions (batched), got ", x.dim(), comm::where(domain));
  TORCH_CHECK_VALUE(groups >= 1 && weight.size(0) % groups == 0, cut.layer, ": ", groups,
                    " groups do not divide a weight of ", weight.size(0), " channels", comm::where(domain));
  const int64_t channels = transposed ? weight.size(0) : weight.size(1) * groups;
  // Uncut, the result of none has no channels either, whatever the weight says.
  TORCH_CHECK_VALUE(channels >= 1, cut.layer, ": expected a weight of at least one input channel, got ", weight.sizes(),
                    comm::where(domain));
  TORCH_CHECK_VALUE(weight.size(0) >= 1, cut.layer, ": expected a weight of at least one output channel, got ",
                    weight.sizes(), comm::where(domain));
  TORCH_CHECK_VALUE(x.size(1) == channels, cut.layer, ": expected an input of ", channels, " channels, got ", x.size(1),
                    comm::where(domain));
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    TORCH_CHECK_VALUE(weight.size(dim) >= 1 && (dim == cut.dim || x.size(dim) >= 1), cut.layer,
                      ": expected a weight and an input of at least one value in dimension ", dim, ", got ",
                      weight.sizes(), " and ", x.sizes(), comm::where(domain));
  }
  // Autocast leaves float64 as it is, and casts the rest.
  const bool autocast = under_autocast(x) && (x.scalar_type() == at::kDouble) == (weight.scalar_type() == at::kDouble);
  TORCH_CHECK_TYPE(autocast || x.scalar_type() == weight.scalar_type(), cut.layer,
                   ": expected an input of the weight's dtype ", weight.scalar_type(), ", got ", x.scalar_type(),
                   comm::where(domain));
  if (bias.has_value() && bias->defined()) {
    const int64_t outputs = transposed ? weight.size(1) * groups : weight.size(0);
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == outputs, cut.layer, ": expected a bias of ", outputs,
                      " values, got ", bias->sizes(), comm::where(domain));
    TORCH_CHECK_TYPE(autocast || bias->scalar_type() == weight.scalar_type(), cut.layer,
                     ": expected a bias of the weight's dtype ", weight.scalar_type(), ", got ", bias->scalar_type(),
                     comm::where(domain));
  }
}

// The uncut layer's size of dimension `dim`: that of x, or the whole grid's rows.
int64_t whole_size(const at::Tensor& x, int64_t dim, const Cut& cut) {
  return dim == cut.dim ? cut.in_offsets.back() : x.size(dim);
}

Placement placement_of(const Cut& cut, int64_t output_rows, const comm::Domain& domain) {
  return {rows::Partition(cut.in_offsets), checked_output(cut, output_rows, domain), cut.dim, cut.group, cut.layer};
}

// A convolution with zeros beyond the grid; padding may differ between the two sides.
Ready zero_padded_conv(const at::Tensor& x, const at::Tensor& weight, const ConvArguments& a, const Cut& cut,
                       const comm::Domain& domain) {
  ReadyConvolution ready{
      {a.stride, a.pad_before, a.dilation, false, Ints(a.stride.size()), a.groups},
      {rows::Partition(cut.in_offsets), rows::Partition(cut.in_offsets), cut.dim, cut.group, cut.layer},
      Ints(a.stride.size()),
      Ints(a.stride.size())};
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    const size_t i = dim - 2;
    const rows::Stencil s{weight.size(dim), a.stride[i], a.pad_before[i], a.dilation[i]};
    const int64_t output = rows::coarse_size(s, whole_size(x, dim, cut), a.pad_after[i]);
    TORCH_CHECK_VALUE(output >= 1, cut.layer, ": a window of ", s.span(), " rows is larger than the padded input of ",
                      whole_size(x, dim, cut) + a.pad_before[i] + a.pad_after[i], " in dimension ", dim,
                      comm::where(domain));
    if (dim == cut.dim) {
      ready.placement = placement_of(cut, output, domain);
      continue;
    }
    ready.options.padding[i] = std::min(a.pad_before[i], a.pad_after[i]);
    ready.zeros_before[i] = a.pad_before[i] - ready.options.padding[i];
    ready.zeros_after[i] = a.pad_after[i] - ready.options.padding[i];
  }
  if (all_zero(ready.zeros_before) && all_zero(ready.zeros_after)) ready.zeros_before = ready.zeros_after = {};
  return ready_call(std::move(ready));
}

// Why the convolution op cannot put this border around the grid by itself, without a copy, or null: what every rank
// knows.
const char* why_not_in_place(const at::Tensor& x, const at::Tensor& weight, const ConvArguments& a,
                             const Border& border, const Cut& cut) {
  if (x.size(0) == 0) return "no samples";
  const rows::Boundary along = rows::boundary_from_name(border.along, true);
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    const size_t i = dim - 2;
    const rows::Stencil s{weight.size(dim), a.stride[i], border.before[i], a.dilation[i]};
    const int64_t output = rows::coarse_size(s, whole_size(x, dim, cut), border.after[i]);
    if (output < 1) return "no output";
    if (dim != cut.dim && border.before[i] != border.after[i]) return "more padding on one side than on the other";
    if (dim == cut.dim && !takes_boundary(s, rows::Partition(cut.in_offsets), output, along)) {
      return along == rows::Boundary::circular ? "the windows do not go round the grid: rows / stride is not the output"
                                               : "rows beyond the grid are not all of the rank at that end";
    }
  }
  return nullptr;
}

Ready bordered_conv(const at::Tensor& x, const at::Tensor& weight, const ConvArguments& a, const Border& border,
                    const Cut& cut, const comm::Domain& domain) {
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    const std::string& mode = dim == cut.dim ? border.along : border.across;
    check_padding(border.before[dim - 2], border.after[dim - 2], whole_size(x, dim, cut), mode, cut);
  }
  if (const char* reason = why_not_in_place(x, weight, a, border, cut)) return padded_copy(reason);
  const size_t i = cut.dim - 2;
  const rows::Stencil s{weight.size(cut.dim), a.stride[i], border.before[i], a.dilation[i]};
  const int64_t output_rows = rows::coarse_size(s, cut.in_offsets.back(), border.after[i]);
  return ready_call({{a.stride, border.before, a.dilation, false, Ints(a.stride.size()), a.groups,
                      rows::boundary_from_name(border.along, true), rows::boundary_from_name(border.across, true)},
                     placement_of(cut, output_rows, domain),
                     {},
                     {}});
}

void check_lists(const ConvArguments& a, int64_t dims, const Cut& cut, const comm::Domain& domain) {
  check_list(a.stride, dims, 1, "stride", cut, domain);
  check_list(a.dilation, dims, 1, "dilation", cut, domain);
  check_list(a.pad_before, dims, 0, "padding", cut, domain);
  check_list(a.pad_after, dims, 0, "padding", cut, domain);
}

Ready resolve_conv(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                   const ConvArguments& a, const Border& border, const Cut& cut, const comm::Domain& domain) {
  check_cut(x, cut, domain);
  check_weight(x, weight, bias, a.groups, false, cut, domain);
  check_lists(a, x.dim() - 2, cut, domain);
  if (a.padding_mode == "zeros") return zero_padded_conv(x, weight, a, cut, domain);
  TORCH_CHECK_VALUE(a.padding_mode == "reflect" || a.padding_mode == "replicate" || a.padding_mode == "circular",
                    cut.layer, ": expected padding_mode zeros, reflect, replicate or circular, got ", a.padding_mode,
                    comm::where(domain));
  return bordered_conv(x, weight, a, border, cut, domain);
}

Ready resolve_transposed(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                         const ConvArguments& a, const Ints& output_padding, const Cut& cut,
                         const comm::Domain& domain) {
  check_cut(x, cut, domain);
  check_weight(x, weight, bias, a.groups, true, cut, domain);
  const int64_t dims = x.dim() - 2;
  check_lists(a, dims, cut, domain);
  check_list(output_padding, dims, 0, "output_padding", cut, domain);
  int64_t output_rows = 0;
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    const size_t i = dim - 2;
    TORCH_CHECK_VALUE(output_padding[i] < std::max(a.stride[i], a.dilation[i]), cut.layer,
                      ": output padding must be smaller than stride or dilation, got output_padding ",
                      c10::IntArrayRef(output_padding), ", stride ", c10::IntArrayRef(a.stride), ", dilation ",
                      c10::IntArrayRef(a.dilation), comm::where(domain));
    const rows::Stencil s{weight.size(dim), a.stride[i], a.pad_before[i], a.dilation[i]};
    const int64_t output = rows::fine_size(s, whole_size(x, dim, cut), output_padding[i]);
    TORCH_CHECK_VALUE(output >= 1, cut.layer, ": an input of ", whole_size(x, dim, cut), " in dimension ", dim,
                      " gives an output of ", output, ", too small", comm::where(domain));
    if (dim == cut.dim) output_rows = output;
  }
  return ready_call({{a.stride, a.pad_before, a.dilation, true, output_padding, a.groups},
                     placement_of(cut, output_rows, domain),
                     {},
                     {}});
}

Ready resolve_periodic(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       const ConvArguments& a, const Border& border, const Cut& cut, const comm::Domain& domain) {
  check_cut(x, cut, domain);
  TORCH_CHECK_VALUE(x.dim() == 4 && cut.dim == 2, cut.layer,
                    ": expected a tensor (N, C, H, W) cut along H (dimension 2), got ", x.dim(),
                    " dimensions cut along ", cut.dim, comm::where(domain));
  check_weight(x, weight, bias, a.groups, false, cut, domain);
  check_lists(a, 2, cut, domain);
  check_list(border.before, 2, 0, "padding", cut, domain);
  const bool closed = all_zero(a.pad_before) && all_zero(a.pad_after);
  return closed ? bordered_conv(x, weight, a, border, cut, domain) : padded_copy("the layer pads twice");
}

Ready resolve(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
              const LayerCallView& call, const comm::Domain& domain) {
  const ConvArguments a = arguments_of(call);
  const Cut cut = cut_of(call);
  switch (call.kind) {
    case LayerKind::transposed:
      return resolve_transposed(x, weight, bias, a, call.more.vec(), cut, domain);
    case LayerKind::periodic:
      return resolve_periodic(x, weight, bias, a, border_of(call), cut, domain);
    default:
      return resolve_conv(x, weight, bias, a, border_of(call), cut, domain);
  }
}

}  // namespace

ConvArguments arguments_of(const LayerCallView& call) {
  return {call.stride.vec(),    call.pad_before.vec(),
          call.pad_after.vec(), std::string(call.padding_mode),
          call.dilation.vec(),  call.groups};
}

Cut cut_of(const LayerCallView& call) {
  return {call.in_offsets.vec(), call.out_offsets.vec(), call.dim, std::string(call.group), std::string(call.layer)};
}

Border border_of(const LayerCallView& call) {
  if (call.kind == LayerKind::periodic) return {"reflect", "circular", call.more.vec(), call.more.vec()};
  const std::string mode(call.padding_mode);
  return {mode, mode, call.pad_before.vec(), call.pad_after.vec()};
}

std::shared_ptr<const ReadyCall> find_ready(const at::Tensor& x, const at::Tensor& weight,
                                            const std::optional<at::Tensor>& bias, const LayerCallView& a,
                                            const comm::Domain& domain) {
  static halo::PlanCache<ReadyCall> known;
  halo::PlanKey key;
  key.add(static_cast<int64_t>(a.kind)).add(a.stride).add(a.pad_before).add(a.pad_after).add(a.padding_mode);
  key.add(a.dilation).add(a.groups).add(a.more).add(a.in_offsets).add(a.out_offsets).add(a.dim);
  key.add(a.group).add(a.layer).add(domain.rank()).add(domain.size()).add(under_autocast(x));
  const auto add_tensor = [&](const at::Tensor& t) { key.add(static_cast<int64_t>(t.scalar_type())).add(t.sizes()); };
  add_tensor(x);
  add_tensor(weight);
  if (bias.has_value() && bias->defined()) add_tensor(*bias);
  return known.find(key, [&] { return resolve(x, weight, bias, a, domain); });
}

}  // namespace graticule::ops

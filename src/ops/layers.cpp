#include "graticule/ops/layers.hpp"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <utility>

#include "graticule/comm/domain.hpp"
#include "graticule/rows/stencil.hpp"
#include "ops/convolution_op.hpp"
#include "ops/cut_checks.hpp"
#include "ops/padding.hpp"
#include "ops/strip_plan.hpp"

namespace graticule::ops {
namespace {

using Ints = std::vector<int64_t>;

void check_list(const Ints& values, int64_t dims, int64_t least, const char* name, const Cut& cut,
                const comm::Domain& domain) {
  TORCH_CHECK_VALUE(static_cast<int64_t>(values.size()) == dims, cut.layer, ": expected ", dims, " values of ", name,
                    ", got ", values.size(), rank_text(domain));
  for (const int64_t value : values) {
    TORCH_CHECK_VALUE(value >= least, cut.layer, ": expected every ", name, " to be at least ", least, ", got ",
                      c10::IntArrayRef(values), rank_text(domain));
  }
}

void check_weight(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias, int64_t groups,
                  bool transposed, const Cut& cut, const comm::Domain& domain) {
  TORCH_CHECK_VALUE(weight.dim() == x.dim(), cut.layer, ": expected an input of ", weight.dim(),
                    " dimensions (batched), got ", x.dim(), rank_text(domain));
  TORCH_CHECK_VALUE(groups >= 1 && weight.size(0) % groups == 0, cut.layer, ": ", groups,
                    " groups do not divide a weight of ", weight.size(0), " channels", rank_text(domain));
  const int64_t channels = transposed ? weight.size(0) : weight.size(1) * groups;
  TORCH_CHECK_VALUE(x.size(1) == channels, cut.layer, ": expected an input of ", channels, " channels, got ", x.size(1),
                    rank_text(domain));
  const bool autocast = under_autocast(x);
  TORCH_CHECK_TYPE(autocast || x.scalar_type() == weight.scalar_type(), cut.layer,
                   ": expected an input of the weight's dtype ", weight.scalar_type(), ", got ", x.scalar_type(),
                   rank_text(domain));
  if (bias.has_value() && bias->defined()) {
    const int64_t outputs = transposed ? weight.size(1) * groups : weight.size(0);
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == outputs, cut.layer, ": expected a bias of ", outputs,
                      " values, got ", bias->sizes(), rank_text(domain));
    TORCH_CHECK_TYPE(autocast || bias->scalar_type() == weight.scalar_type(), cut.layer,
                     ": expected a bias of the weight's dtype ", weight.scalar_type(), ", got ", bias->scalar_type(),
                     rank_text(domain));
  }
}

// The uncut layer's size of dimension `dim`: that of x, or the whole grid's rows.
int64_t whole_size(const at::Tensor& x, int64_t dim, const Cut& cut) {
  return dim == cut.dim ? cut.in_offsets.back() : x.size(dim);
}

// A convolution with zeros beyond the grid; padding may differ between the two sides.
at::Tensor zero_padded_conv(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                            const ConvArguments& a, const Cut& cut, const comm::Domain& domain) {
  Ints symmetric = a.pad_before;
  Ints more_before(a.pad_before.size());
  Ints more_after(a.pad_before.size());
  int64_t output_rows = 0;
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    const size_t i = dim - 2;
    const rows::Stencil s{weight.size(dim), a.stride[i], a.pad_before[i], a.dilation[i]};
    const int64_t output = rows::coarse_size(s, whole_size(x, dim, cut), a.pad_after[i]);
    TORCH_CHECK_VALUE(output >= 1, cut.layer, ": a window of ", s.span(), " rows is larger than the padded input of ",
                      whole_size(x, dim, cut) + a.pad_before[i] + a.pad_after[i], " in dimension ", dim,
                      rank_text(domain));
    if (dim == cut.dim) {
      output_rows = output;
      continue;
    }
    symmetric[i] = std::min(a.pad_before[i], a.pad_after[i]);
    more_before[i] = a.pad_before[i] - symmetric[i];
    more_after[i] = a.pad_after[i] - symmetric[i];
  }
  const at::Tensor padded = pad_across(x, more_before, more_after, "zeros", cut);
  return call_convolution(
      padded, weight, bias, {a.stride, symmetric, a.dilation, false, Ints(a.stride.size()), a.groups},
      {rows::Partition(cut.in_offsets), checked_output(cut, output_rows, domain), cut.dim, cut.group, cut.layer});
}

// Padding that is more than zeros, around the grid.
struct Border {
  std::string along;   // the cut: reflect, replicate or circular
  std::string across;  // it
  Ints before, after;
};

// Copies of x's rows with the border around them, and their cut.
std::pair<at::Tensor, Cut> pad(const at::Tensor& x, const Border& border, const ConvArguments& a, int64_t kernel_rows,
                               const Cut& cut) {
  const size_t i = cut.dim - 2;
  const at::Tensor padded = pad_across(pad_rows(x, border.before[i], border.after[i], border.along, cut), border.before,
                                       border.after, border.across, cut);
  Cut padded_cut = cut;
  padded_cut.in_offsets = padded_offsets(cut.in_offsets, border.before[i], border.after[i]);
  if (padded_cut.out_offsets.empty() && i < a.stride.size() && i < a.dilation.size() && i < a.pad_before.size() &&
      i < a.pad_after.size()) {
    // The default cut follows the unpadded input: padding must not change it.
    const rows::Stencil s{kernel_rows, a.stride[i], a.pad_before[i], a.dilation[i]};
    const int64_t output_rows = rows::coarse_size(s, padded_cut.in_offsets.back(), a.pad_after[i]);
    if (output_rows >= 1) {
      padded_cut.out_offsets = rows::output_partition(rows::Partition(cut.in_offsets), output_rows).offsets();
    }
  }
  return {padded, padded_cut};
}

// Whether the convolution op can put this border around the grid by itself, without a copy: what every rank knows.
bool takes_border(const at::Tensor& x, const at::Tensor& weight, const ConvArguments& a, const Border& border,
                  const Cut& cut) {
  if (border.along == "circular" || x.size(0) == 0) return false;
  const rows::Boundary along = rows::boundary_from_name(border.along, true);
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    const size_t i = dim - 2;
    const rows::Stencil s{weight.size(dim), a.stride[i], border.before[i], a.dilation[i]};
    const int64_t output = rows::coarse_size(s, whole_size(x, dim, cut), border.after[i]);
    if (output < 1) return false;
    if (dim != cut.dim && border.before[i] != border.after[i]) return false;
    if (dim == cut.dim && !border_is_local(s, rows::Partition(cut.in_offsets), output, along)) return false;
  }
  return true;
}

at::Tensor bordered_conv(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                         const ConvArguments& a, const Border& border, const Cut& cut, const comm::Domain& domain) {
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    const std::string& mode = dim == cut.dim ? border.along : border.across;
    check_padding(border.before[dim - 2], border.after[dim - 2], whole_size(x, dim, cut), mode, cut);
  }
  ConvArguments rest = a;
  rest.pad_before.assign(a.stride.size(), 0);
  rest.pad_after.assign(a.stride.size(), 0);
  if (!takes_border(x, weight, a, border, cut)) {
    const auto [padded, padded_cut] = pad(x, border, rest, weight.size(cut.dim), cut);
    return zero_padded_conv(padded, weight, bias, rest, padded_cut, domain);
  }
  const size_t i = cut.dim - 2;
  const rows::Stencil s{weight.size(cut.dim), a.stride[i], border.before[i], a.dilation[i]};
  const int64_t output_rows = rows::coarse_size(s, cut.in_offsets.back(), border.after[i]);
  return call_convolution(
      x, weight, bias,
      {a.stride, border.before, a.dilation, false, Ints(a.stride.size()), a.groups,
       rows::boundary_from_name(border.along, true), rows::boundary_from_name(border.across, true)},
      {rows::Partition(cut.in_offsets), checked_output(cut, output_rows, domain), cut.dim, cut.group, cut.layer});
}

}  // namespace

at::Tensor conv(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                const ConvArguments& a, const Cut& cut) {
  const comm::Domain domain = comm::Domain::from_group_name(cut.group);
  check_cut(x, cut, domain);
  check_weight(x, weight, bias, a.groups, false, cut, domain);
  const int64_t dims = x.dim() - 2;
  check_list(a.stride, dims, 1, "stride", cut, domain);
  check_list(a.dilation, dims, 1, "dilation", cut, domain);
  check_list(a.pad_before, dims, 0, "padding", cut, domain);
  check_list(a.pad_after, dims, 0, "padding", cut, domain);
  if (a.padding_mode == "zeros") return zero_padded_conv(x, weight, bias, a, cut, domain);

  TORCH_CHECK_VALUE(a.padding_mode == "reflect" || a.padding_mode == "replicate" || a.padding_mode == "circular",
                    cut.layer, ": expected padding_mode zeros, reflect, replicate or circular, got ", a.padding_mode,
                    rank_text(domain));
  return bordered_conv(x, weight, bias, a, {a.padding_mode, a.padding_mode, a.pad_before, a.pad_after}, cut, domain);
}

at::Tensor conv_transpose(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                          const ConvTransposeArguments& a, const Cut& cut) {
  const comm::Domain domain = comm::Domain::from_group_name(cut.group);
  check_cut(x, cut, domain);
  check_weight(x, weight, bias, a.groups, true, cut, domain);
  const int64_t dims = x.dim() - 2;
  check_list(a.stride, dims, 1, "stride", cut, domain);
  check_list(a.dilation, dims, 1, "dilation", cut, domain);
  check_list(a.padding, dims, 0, "padding", cut, domain);
  check_list(a.output_padding, dims, 0, "output_padding", cut, domain);
  int64_t output_rows = 0;
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    const size_t i = dim - 2;
    TORCH_CHECK_VALUE(a.output_padding[i] < std::max(a.stride[i], a.dilation[i]), cut.layer,
                      ": output padding must be smaller than stride or dilation, got output_padding ",
                      c10::IntArrayRef(a.output_padding), ", stride ", c10::IntArrayRef(a.stride), ", dilation ",
                      c10::IntArrayRef(a.dilation), rank_text(domain));
    const rows::Stencil s{weight.size(dim), a.stride[i], a.padding[i], a.dilation[i]};
    const int64_t output = rows::fine_size(s, whole_size(x, dim, cut), a.output_padding[i]);
    TORCH_CHECK_VALUE(output >= 1, cut.layer, ": an input of ", whole_size(x, dim, cut), " in dimension ", dim,
                      " gives an output of ", output, ", too small", rank_text(domain));
    if (dim == cut.dim) output_rows = output;
  }
  return call_convolution(
      x, weight, bias, {a.stride, a.padding, a.dilation, true, a.output_padding, a.groups},
      {rows::Partition(cut.in_offsets), checked_output(cut, output_rows, domain), cut.dim, cut.group, cut.layer});
}

at::Tensor periodic_conv(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                         const ConvArguments& a, const Ints& padding, const Cut& cut) {
  const comm::Domain domain = comm::Domain::from_group_name(cut.group);
  check_cut(x, cut, domain);
  TORCH_CHECK_VALUE(x.dim() == 4 && cut.dim == 2, cut.layer,
                    ": expected a tensor (N, C, H, W) cut along H (dimension 2), got ", x.dim(),
                    " dimensions cut along ", cut.dim, rank_text(domain));
  check_weight(x, weight, bias, a.groups, false, cut, domain);
  check_list(padding, 2, 0, "padding", cut, domain);
  const Border border{"reflect", "circular", padding, padding};
  const auto pads = [](const Ints& values) {
    return std::any_of(values.begin(), values.end(), [](int64_t v) { return v != 0; });
  };
  if (!pads(a.pad_before) && !pads(a.pad_after) && a.stride.size() == 2 && a.dilation.size() == 2) {
    return bordered_conv(x, weight, bias, a, border, cut, domain);
  }
  const auto [padded, padded_cut] = pad(x, border, a, weight.size(2), cut);
  return conv(padded, weight, bias, a, padded_cut);
}

namespace {

Cut make_cut(at::IntArrayRef in_offsets, at::IntArrayRef out_offsets, int64_t dim, c10::string_view group,
             c10::string_view layer) {
  return {in_offsets.vec(), out_offsets.vec(), dim, std::string(group), std::string(layer)};
}

at::Tensor conv_op(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                   at::IntArrayRef stride, at::IntArrayRef pad_before, at::IntArrayRef pad_after,
                   c10::string_view padding_mode, at::IntArrayRef dilation, int64_t groups, at::IntArrayRef in_offsets,
                   at::IntArrayRef out_offsets, int64_t dim, c10::string_view group, c10::string_view layer) {
  return conv(x, weight, bias,
              {stride.vec(), pad_before.vec(), pad_after.vec(), std::string(padding_mode), dilation.vec(), groups},
              make_cut(in_offsets, out_offsets, dim, group, layer));
}

at::Tensor conv_transpose_op(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                             at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef output_padding,
                             at::IntArrayRef dilation, int64_t groups, at::IntArrayRef in_offsets,
                             at::IntArrayRef out_offsets, int64_t dim, c10::string_view group, c10::string_view layer) {
  return conv_transpose(x, weight, bias, {stride.vec(), padding.vec(), output_padding.vec(), dilation.vec(), groups},
                        make_cut(in_offsets, out_offsets, dim, group, layer));
}

at::Tensor periodic_conv_op(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                            at::IntArrayRef stride, at::IntArrayRef conv_padding, at::IntArrayRef dilation,
                            int64_t groups, c10::string_view conv_padding_mode, at::IntArrayRef periodic_padding,
                            at::IntArrayRef in_offsets, at::IntArrayRef out_offsets, int64_t dim,
                            c10::string_view group, c10::string_view layer) {
  return periodic_conv(
      x, weight, bias,
      {stride.vec(), conv_padding.vec(), conv_padding.vec(), std::string(conv_padding_mode), dilation.vec(), groups},
      periodic_padding.vec(), make_cut(in_offsets, out_offsets, dim, group, layer));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(graticule, m) {
  m.def(
      "conv(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] pad_before, int[] pad_after, str padding_mode, "
      "int[] dilation, int groups, int[] in_offsets, int[] out_offsets, int dim, str group, str layer) -> Tensor",
      conv_op);
  m.def(
      "conv_transpose(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] output_padding, "
      "int[] dilation, int groups, int[] in_offsets, int[] out_offsets, int dim, str group, str layer) -> Tensor",
      conv_transpose_op);
  m.def(
      "periodic_conv(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] conv_padding, int[] dilation, "
      "int groups, str conv_padding_mode, int[] periodic_padding, int[] in_offsets, int[] out_offsets, int dim, "
      "str group, str layer) -> Tensor",
      periodic_conv_op);
}

}  // namespace graticule::ops

#include "graticule/ops/layers.hpp"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <utility>

#include "graticule/comm/domain.hpp"
#include "graticule/rows/stencil.hpp"
#include "ops/call_trace.hpp"
#include "ops/convolution_op.hpp"
#include "ops/padding.hpp"
#include "ops/ready_convolution.hpp"

namespace graticule::ops {
namespace {

using Ints = std::vector<int64_t>;

// No copies: of arguments that live as long.
LayerCallView view_of(LayerKind kind, const ConvArguments& a, const Ints& more, const Cut& cut) {
  return {kind, a.stride,       a.pad_before,    a.pad_after, a.padding_mode, a.dilation, a.groups,
          more, cut.in_offsets, cut.out_offsets, cut.dim,     cut.group,      cut.layer};
}

// Tells profilers of a copy that the convolution is given in place of the tensor, while it is made.
CallTrace trace_copy(const std::string& layer, const char* reason) {
  return {layer, "forward", "a padded copy: ", reason};
}

at::Tensor with_zeros(const ReadyConvolution& ready, const at::Tensor& x) {
  const Placement& p = ready.placement;
  const CallTrace trace = trace_copy(p.layer, "more zeros on one side than on the other");
  const Cut cut{p.input.offsets(), p.output.offsets(), p.dim, p.group, p.layer};
  return pad_across(x, ready.zeros_before, ready.zeros_after, "zeros", cut);
}

at::Tensor run(const ReadyConvolution& ready, const at::Tensor& x, const at::Tensor& weight,
               const std::optional<at::Tensor>& bias) {
  return call_convolution(ready.zeros_before.empty() ? x : with_zeros(ready, x), weight, bias, ready.options,
                          ready.placement);
}

// Copies of x's rows with the border around them, and their cut.
std::pair<at::Tensor, Cut> pad(const at::Tensor& x, const Border& border, const ConvArguments& a, int64_t kernel_rows,
                               const Cut& cut, const char* reason) {
  const CallTrace trace = trace_copy(cut.layer, reason);
  const size_t i = cut.dim - 2;
  const at::Tensor padded = pad_across(pad_rows(x, border.before[i], border.after[i], border.along, cut), border.before,
                                       border.after, border.across, cut);
  Cut padded_cut = cut;
  padded_cut.in_offsets = padded_offsets(cut.in_offsets, border.before[i], border.after[i]);
  if (padded_cut.out_offsets.empty()) {
    // The default cut follows the unpadded input: padding must not change it.
    const rows::Stencil s{kernel_rows, a.stride[i], a.pad_before[i], a.dilation[i]};
    const int64_t output_rows = rows::coarse_size(s, padded_cut.in_offsets.back(), a.pad_after[i]);
    if (output_rows >= 1) {
      padded_cut.out_offsets = rows::output_partition(rows::Partition(cut.in_offsets), output_rows).offsets();
    }
  }
  return {padded, padded_cut};
}

at::Tensor call(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                const LayerCallView& view) {
  const comm::Domain domain = comm::Domain::from_group_name(std::string(view.group));
  const auto ready = find_ready(x, weight, bias, view, domain);
  if (ready->convolution) return run(*ready->convolution, x, weight, bias);

  ConvArguments rest = arguments_of(view);
  const Border border = border_of(view);
  if (view.kind == LayerKind::conv) {
    rest.pad_before.assign(rest.stride.size(), 0);
    rest.pad_after.assign(rest.stride.size(), 0);
    rest.padding_mode = "zeros";
  }
  const Cut cut = cut_of(view);
  const auto [padded, padded_cut] = pad(x, border, rest, weight.size(cut.dim), cut, ready->copy_reason);
  return conv(padded, weight, bias, rest, padded_cut);
}

}  // namespace

at::Tensor conv(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                const ConvArguments& a, const Cut& cut) {
  return call(x, weight, bias, view_of(LayerKind::conv, a, {}, cut));
}

at::Tensor conv_transpose(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                          const ConvTransposeArguments& a, const Cut& cut) {
  return call(x, weight, bias,
              {LayerKind::transposed, a.stride, a.padding, a.padding, "zeros", a.dilation, a.groups, a.output_padding,
               cut.in_offsets, cut.out_offsets, cut.dim, cut.group, cut.layer});
}

at::Tensor periodic_conv(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                         const ConvArguments& a, const Ints& padding, const Cut& cut) {
  return call(x, weight, bias, view_of(LayerKind::periodic, a, padding, cut));
}

namespace {

at::Tensor conv_op(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                   at::IntArrayRef stride, at::IntArrayRef pad_before, at::IntArrayRef pad_after,
                   c10::string_view padding_mode, at::IntArrayRef dilation, int64_t groups, at::IntArrayRef in_offsets,
                   at::IntArrayRef out_offsets, int64_t dim, c10::string_view group, c10::string_view layer) {
  return call(x, weight, bias,
              {LayerKind::conv,
               stride,
               pad_before,
               pad_after,
               padding_mode,
               dilation,
               groups,
               {},
               in_offsets,
               out_offsets,
               dim,
               group,
               layer});
}

at::Tensor conv_transpose_op(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                             at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef output_padding,
                             at::IntArrayRef dilation, int64_t groups, at::IntArrayRef in_offsets,
                             at::IntArrayRef out_offsets, int64_t dim, c10::string_view group, c10::string_view layer) {
  return call(x, weight, bias,
              {LayerKind::transposed, stride, padding, padding, "zeros", dilation, groups, output_padding, in_offsets,
               out_offsets, dim, group, layer});
}

at::Tensor periodic_conv_op(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                            at::IntArrayRef stride, at::IntArrayRef conv_padding, at::IntArrayRef dilation,
                            int64_t groups, c10::string_view conv_padding_mode, at::IntArrayRef periodic_padding,
                            at::IntArrayRef in_offsets, at::IntArrayRef out_offsets, int64_t dim,
                            c10::string_view group, c10::string_view layer) {
  return call(x, weight, bias,
              {LayerKind::periodic, stride, conv_padding, conv_padding, conv_padding_mode, dilation, groups,
               periodic_padding, in_offsets, out_offsets, dim, group, layer});
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

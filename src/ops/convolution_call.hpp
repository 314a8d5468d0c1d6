// What the steps of one call of a cut convolution share.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "graticule/comm/domain.hpp"
#include "graticule/halo/exchange.hpp"
#include "graticule/ops/convolution.hpp"
#include "ops/convolution_arguments.hpp"
#include "ops/extension.hpp"
#include "ops/local_convolution.hpp"
#include "ops/strip_plan.hpp"

namespace graticule::ops {

/// Refers to weight and arguments, which must outlive it.
struct ConvolutionCall {
  ConvolutionCall(const at::Tensor& x, const at::Tensor& weight, const ConvolutionArguments& arguments);

  const at::Tensor& weight;
  const ConvolutionOptions& options;
  const Placement& placement;
  int64_t dim;
  comm::Domain domain;
  int rank;
  std::shared_ptr<const StripPlan> plan;
  rows::Interval input, output;  // this rank's rows
  const rows::Stencil& s;
  const std::vector<int64_t>&x_sizes, &out_sizes;  // of this rank's input and output

  [[nodiscard]] bool bordered_across() const { return options.across_boundary != rows::Boundary::zeros; }
  /// The columns [0, size) of dimension d, or those extended by the padding on both sides.
  [[nodiscard]] HeldRows columns(int64_t d) const { return {d, {0, x_sizes[d]}, x_sizes[d]}; }
  [[nodiscard]] rows::Interval padded_columns(int64_t d) const {
    const int64_t p = options.padding[d - 2];
    return {-p, x_sizes[d] + p};
  }

  /// Posts the rows of t that the strips' whole windows need.
  [[nodiscard]] halo::Gather start(const at::Tensor& t, const Strips& strips) const {
    return start(t, strips, strips.tag);
  }
  [[nodiscard]] halo::Gather start(const at::Tensor& t, const Strips& strips, const comm::MessageTag& tag) const {
    return {t, strips.exchange, {dim}, domain, placement.layer, tag};
  }
  /// t, of x's columns, with the border that is more than zeros around it, in dimensions from `first` on but the cut.
  [[nodiscard]] at::Tensor bordered(at::Tensor t, int64_t first = 2) const;
  /// The adjoint of bordered().
  [[nodiscard]] at::Tensor without_border(at::Tensor g, int64_t first = 2) const;
  /// Of all output columns of dimension d, those whose windows reach over an edge of x.
  [[nodiscard]] rows::Seams edge_columns(int64_t d) const;
};

/// Rows `own` of a tensor that holds rows from `begin` on, in memory of their own where that is not all of them.
at::Tensor crop(const at::Tensor& t, int64_t dim, int64_t begin, rows::Interval own);

/// Writes rows `rows` of `strip`, which holds rows from `begin` on, over the same rows of `result`, rows `own`.
void overwrite(at::Tensor& result, rows::Interval own, const at::Tensor& strip, int64_t begin, rows::Interval rows,
               int64_t dim);

/// The output; and, where it is asked for, the halo.
at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       const ConvolutionArguments& arguments, ConvolutionHalo* halo);
/// Those rows alone, where forward has not kept them: they travel once more, if there are any. All ranks must call.
ConvolutionHalo convolution_halo(const at::Tensor& x, const at::Tensor& weight, const ConvolutionArguments& arguments);
ConvolutionGradients convolution_backward(const at::Tensor& grad, const at::Tensor& x, const ConvolutionHalo& halo,
                                          const at::Tensor& weight, const ConvolutionArguments& arguments,
                                          std::array<bool, 3> wanted);

}  // namespace graticule::ops

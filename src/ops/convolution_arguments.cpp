#include "ops/convolution_arguments.hpp"

#include <atomic>
#include <string>

#include "halo/plan_cache.hpp"

namespace graticule::ops {
namespace {

halo::PlanKey key_of(const ConvolutionArgumentsView& a) {
  halo::PlanKey key;
  key.add(a.stride).add(a.padding).add(a.dilation).add(a.transposed).add(a.output_padding).add(a.groups);
  key.add(a.in_offsets).add(a.out_offsets).add(a.dim).add(a.group).add(a.layer);
  key.add(static_cast<int64_t>(a.row_boundary)).add(static_cast<int64_t>(a.across_boundary));
  return key;
}

}  // namespace

std::shared_ptr<const ConvolutionArguments> find_arguments(const ConvolutionArgumentsView& view) {
  static halo::PlanCache<ConvolutionArguments> known;
  static std::atomic<int64_t> count{0};
  return known.find(key_of(view), [&] {
    return std::make_shared<const ConvolutionArguments>(
        ConvolutionArguments{{view.stride.vec(), view.padding.vec(), view.dilation.vec(), view.transposed,
                              view.output_padding.vec(), view.groups, view.row_boundary, view.across_boundary},
                             {rows::Partition(view.in_offsets.vec()), rows::Partition(view.out_offsets.vec()), view.dim,
                              std::string(view.group), std::string(view.layer)},
                             count++});
  });
}

std::shared_ptr<const ConvolutionArguments> find_arguments(const ConvolutionOptions& o, const Placement& p) {
  return find_arguments({o.stride, o.padding, o.dilation, o.transposed, o.output_padding, o.groups, p.input.offsets(),
                         p.output.offsets(), p.dim, p.group, p.layer, o.row_boundary, o.across_boundary});
}

}  // namespace graticule::ops

// graticule::fixed_shape: a tensor of symbolic sizes, as one of the sizes that it has.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <vector>

namespace graticule::ops {
namespace {

std::vector<int64_t> numbers(c10::SymIntArrayRef values) {
  std::vector<int64_t> result;
  for (const c10::SymInt& value : values) result.push_back(value.guard_int(__FILE__, __LINE__));
  return result;
}

at::Tensor fixed_shape(const at::Tensor& x) {
  if (!x.unsafeGetTensorImpl()->has_symbolic_sizes_strides()) return x;
  // A guard makes a symbol a number in whatever is made of the tensor from then on.
  numbers(x.sym_strides());
  x.sym_storage_offset().guard_int(__FILE__, __LINE__);
  return x.view(numbers(x.sym_sizes()));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(graticule, m) { m.def("fixed_shape(Tensor(a) x) -> Tensor(a)", fixed_shape); }

}  // namespace graticule::ops

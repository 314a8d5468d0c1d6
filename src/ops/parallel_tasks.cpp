#include "ops/parallel_tasks.hpp"

#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/empty.h>

#include <algorithm>

namespace graticule::ops {

void for_tasks(int64_t tasks, int64_t work, c10::function_ref<void(int64_t begin, int64_t end)> run) {
  if (tasks == 0) return;
  const int64_t least = std::max<int64_t>(1, at::internal::GRAIN_SIZE / std::max<int64_t>(1, work));
  if (tasks <= least || at::get_num_threads() == 1 || at::in_parallel_region()) {
    run(0, tasks);
    return;
  }
  // at::parallel_for is serial in a library that is not itself compiled with OpenMP; a TensorIterator's loop runs in
  // libtorch. The addresses of the bytes that it runs over number the tasks.
  const at::Tensor numbers = at::empty({tasks}, at::kByte);
  const auto* first = static_cast<const char*>(numbers.const_data_ptr());
  auto iterator = at::TensorIteratorConfig().add_const_input(numbers).build();
  iterator.for_each(
      [&](char** data, const int64_t*, int64_t inner, int64_t outer) {
        const int64_t begin = data[0] - first;
        run(begin, begin + inner * outer);
      },
      least);
}

}  // namespace graticule::ops

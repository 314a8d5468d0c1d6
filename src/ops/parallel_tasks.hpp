// A loop over tasks on torch's threads.
#pragma once

#include <c10/util/FunctionRef.h>

#include <cstdint>

namespace graticule::ops {

/// Calls run(begin, end) for ranges that make up [0, tasks), at once on the threads that torch.set_num_threads sets
/// where `work` (elements a task) is worth it.
void for_tasks(int64_t tasks, int64_t work, c10::function_ref<void(int64_t begin, int64_t end)> run);

}  // namespace graticule::ops

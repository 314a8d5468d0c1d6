// The dispatcher's view of domains: for Python.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "graticule/comm/check.hpp"
#include "graticule/comm/collectives.hpp"
#include "graticule/comm/domain.hpp"
#include "graticule/comm/exchange.hpp"
#include "graticule/comm/thread_group.hpp"

namespace graticule::comm {
namespace {

void check_equal_op(c10::string_view layer, c10::string_view facts, c10::string_view group) {
  check_equal(Domain::from_group_name(std::string(group)), std::string(layer), std::string(facts));
}

void poison_op(c10::string_view group, c10::string_view why) {
  poison(Domain::from_group_name(std::string(group)), std::string(why));
}

void note_draw_op(int64_t seed, c10::string_view group) {
  note_draw(Domain::from_group_name(std::string(group)), seed);
}

at::Tensor& all_reduce_sum_op(at::Tensor& x, c10::string_view group, c10::string_view layer) {
  all_reduce_sum_(Domain::from_group_name(std::string(group)), x, std::string(layer));
  return x;
}

at::Tensor all_to_all_op(const at::Tensor& parts, at::IntArrayRef send_counts, at::IntArrayRef receive_counts,
                         c10::string_view group, c10::string_view layer) {
  return all_to_all(Domain::from_group_name(std::string(group)), parts, send_counts.vec(), receive_counts.vec(),
                    std::string(layer));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(graticule, m) {
  m.def("create_thread_group(str world, int rank, int size) -> str",
        [](c10::string_view world, int64_t rank, int64_t size) {
          return create_thread_group(std::string(world), static_cast<int>(rank), static_cast<int>(size));
        });
  m.def("destroy_thread_group(str name) -> ()", [](c10::string_view name) { destroy_thread_group(std::string(name)); });
  m.def("row_offsets(int local_rows, str group, str layer) -> int[]",
        [](int64_t local_rows, c10::string_view group, c10::string_view layer) {
          return gather_sizes(Domain::from_group_name(std::string(group)), local_rows, std::string(layer));
        });
  m.def("domain_rank(str group) -> int",
        [](c10::string_view group) -> int64_t { return Domain::from_group_name(std::string(group)).rank(); });
  m.def("domain_size(str group) -> int",
        [](c10::string_view group) -> int64_t { return Domain::from_group_name(std::string(group)).size(); });
  m.def("domain_bytes_sent(str group) -> int", [](c10::string_view group) {
    return static_cast<int64_t>(Domain::from_group_name(std::string(group)).bytes_sent());
  });
  m.def("domain_messages_sent(str group) -> int", [](c10::string_view group) {
    return static_cast<int64_t>(Domain::from_group_name(std::string(group)).messages_sent());
  });
  m.def("bytes_sent() -> int", []() -> int64_t { return static_cast<int64_t>(bytes_sent()); });
  m.def("messages_sent() -> int", []() -> int64_t { return static_cast<int64_t>(messages_sent()); });
  m.def("check_equal(str layer, str facts, str group) -> ()");
  m.def("poison(str group, str why) -> ()");
  m.def("note_draw(int seed, str group) -> ()");
  m.def("all_reduce_sum_(Tensor(a!) x, str group, str layer=\"all_reduce_sum_\") -> Tensor(a!)");
  m.def("all_to_all(Tensor parts, int[] send_counts, int[] receive_counts, str group, str layer) -> Tensor");
}
TORCH_LIBRARY_IMPL(graticule, CompositeExplicitAutograd, m) {
  m.impl("check_equal", check_equal_op);
  m.impl("poison", poison_op);
  m.impl("note_draw", note_draw_op);
  m.impl("all_reduce_sum_", all_reduce_sum_op);
  m.impl("all_to_all", all_to_all_op);
}

}  // namespace graticule::comm

#include "graticule/mpi/mpi.hpp"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <utility>

#include "comm/domain_state.hpp"
#include "mpi/mpi_backend.hpp"
#include "mpi/mpi_error.hpp"
#include "mpi/mpi_work.hpp"
#include "mpi/progress.hpp"

namespace graticule::mpi {
namespace {

struct Group {
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  c10::intrusive_ptr<MpiBackend> backend;
};

std::mutex groups_mutex;
bool initialized_here = false;

std::map<std::string, Group>& groups() {
  // Never destroyed: at exit MPI may be gone before it.
  static auto* const all = new std::map<std::string, Group>();
  return *all;
}

bool is_initialized() {
  int flag = 0;
  GRATICULE_MPI(MPI_Initialized(&flag));
  return flag != 0;
}

bool is_finalized() {
  int flag = 0;
  GRATICULE_MPI(MPI_Finalized(&flag));
  return flag != 0;
}

bool has_failed(const std::string& name) {
  try {
    comm::check_alive(comm::Domain::from_group_name(name));
    return false;
  } catch (const c10::Error&) {
    return true;
  }
}

void check_thread_level() {
  TORCH_CHECK(is_initialized() && !is_finalized(),
              "MPI is not running: call MPI_Init_thread or graticule::mpi::initialize first");
  int level = 0;
  int main_thread = 0;
  GRATICULE_MPI(MPI_Query_thread(&level));
  GRATICULE_MPI(MPI_Is_thread_main(&main_thread));
  TORCH_CHECK(level >= MPI_THREAD_SERIALIZED || main_thread != 0,
              "MPI was initialised for its main thread alone (MPI_THREAD_SINGLE or MPI_THREAD_FUNNELED), and this is "
              "another one: initialise it with MPI_THREAD_SERIALIZED or MPI_THREAD_MULTIPLE");
}

}  // namespace

void initialize() {
  if (is_initialized()) return;
  int level = 0;
  GRATICULE_MPI(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level));
  initialized_here = true;
}

void finalize() {
  if (!is_initialized() || is_finalized()) return;
  std::vector<std::string> names;
  {
    const std::lock_guard lock(groups_mutex);
    for (const auto& [name, group] : groups()) names.push_back(name);
  }
  for (const std::string& name : names) destroy_group(name);
  stop_progress();
  if (initialized_here) GRATICULE_MPI(MPI_Finalize());
}

std::string create_group(MPI_Comm communicator, const std::string& name) {
  check_thread_level();
  MPI_Comm own = MPI_COMM_NULL;
  int rank = 0;
  int size = 0;
  {
    const std::lock_guard lock(mpi_mutex());
    GRATICULE_MPI(MPI_Comm_dup(communicator, &own));
    GRATICULE_MPI(MPI_Comm_set_errhandler(own, MPI_ERRORS_RETURN));
    GRATICULE_MPI(MPI_Comm_rank(own, &rank));
    GRATICULE_MPI(MPI_Comm_size(own, &size));
  }
  auto backend = c10::make_intrusive<MpiBackend>(own, rank, size);
  auto group = c10::make_intrusive<c10d::ProcessGroup>(rank, size);
  for (const c10::DeviceType device : {c10::DeviceType::CPU, c10::DeviceType::CUDA}) {
    group->setBackend(device, c10d::ProcessGroup::BackendType::CUSTOM, c10::intrusive_ptr<c10d::Backend>(backend));
  }
  group->setDefaultBackend(c10d::ProcessGroup::BackendType::CUSTOM);
  group->setGroupName(name);
  const std::lock_guard lock(groups_mutex);
  TORCH_CHECK_VALUE(groups().count(name) == 0, "there is a group named ", name, " already");
  c10d::register_process_group(name, group);
  groups().emplace(name, Group{std::move(group), std::move(backend)});
  return name;
}

comm::Domain create_domain(MPI_Comm communicator, const std::string& name) {
  return comm::Domain::from_group_name(create_group(communicator, name));
}

void destroy_group(const std::string& name) {
  Group group;
  {
    const std::lock_guard lock(groups_mutex);
    const auto found = groups().find(name);
    if (found == groups().end()) return;
    group = found->second;
    groups().erase(found);
  }
  const bool failed = has_failed(name);
  c10d::unregister_process_group(name);
  // What a failure left on its way would meet the next communicator to which MPI gives the same context.
  if (!failed) group.backend->release();
}

void finalize_unless_failed() {
  std::vector<std::string> names;
  {
    const std::lock_guard lock(groups_mutex);
    for (const auto& [name, group] : groups()) names.push_back(name);
  }
  if (std::none_of(names.begin(), names.end(), has_failed)) finalize();
}

TORCH_LIBRARY(graticule_mpi, m) {
  m.def("initialize() -> ()", []() { initialize(); });
  m.def("finalize() -> ()", []() { finalize(); });
  m.def("finalize_unless_failed() -> ()", []() { finalize_unless_failed(); });
  m.def("create_world_group(str name) -> str", [](c10::string_view name) {
    initialize();
    return create_group(MPI_COMM_WORLD, std::string(name));
  });
  m.def("destroy_group(str name) -> ()", [](c10::string_view name) { destroy_group(std::string(name)); });
}

}  // namespace graticule::mpi

#include "mpi/mpi_backend.hpp"

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>
#include <utility>

#include "mpi/mpi_error.hpp"
#include "mpi/mpi_work.hpp"

namespace graticule::mpi {
namespace {

using c10d::Work;

constexpr int farewell_tag = 0x6773;  // no message has it
constexpr std::chrono::seconds parting_patience{5};

// Whether MPI reads and writes the memory of CUDA devices: MPICH and Open MPI answer by the same function.
bool takes_cuda_memory() {
  static const bool takes = []() {
    auto* const query = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "MPIX_Query_cuda_support"));
    return query != nullptr && query() != 0;
  }();
  return takes;
}

// t itself, or a copy on the CPU. Open MPI takes a device's memory for messages, but ends the program where it is given
// to its nonblocking sums.
at::Tensor on_cpu(const at::Tensor& t) {
  TORCH_CHECK(t.is_contiguous(), "MPI carries contiguous tensors only");
  TORCH_CHECK(!t.is_meta(), "MPI carries tensors that have values only");
  return t.cpu();
}

// Memory for a message in t's place: t itself where MPI reads and writes it, else a copy on the CPU.
at::Tensor reachable(const at::Tensor& t) {
  if (!t.is_cuda() || !takes_cuda_memory()) return on_cpu(t);
  TORCH_CHECK(t.is_contiguous(), "MPI carries contiguous tensors only");
  // MPI knows nothing of streams: what they still write must be there first.
  c10::impl::VirtualGuardImpl(t.device().type()).getStream(t.device()).synchronize();
  return t;
}

// What brings the values that MPI has written to `memory` into t.
std::function<void()> bring_back(const at::Tensor& memory, const at::Tensor& t) {
  if (memory.is_same(t)) return nullptr;
  return [memory, t]() { t.copy_(memory); };
}

MPI_Datatype type_of(const at::Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat:
      return MPI_FLOAT;
    case at::kDouble:
      return MPI_DOUBLE;
    case at::kInt:
      return MPI_INT32_T;
    case at::kLong:
      return MPI_INT64_T;
    case at::kByte:
      return MPI_UINT8_T;
    default:
      TORCH_CHECK(false, "MPI cannot add ", t.scalar_type());
  }
}

}  // namespace

MpiBackend::MpiBackend(MPI_Comm communicator, int rank, int size, int64_t most_bytes)
    : Backend(rank, size), communicator_(communicator), most_bytes_(most_bytes) {}

bool MpiBackend::reaches(const at::Device& device) const {
  return device.is_cpu() || (device.is_cuda() && takes_cuda_memory());
}

// The communicator of a group that nobody destroyed stays: freeing is collective, and ends do not come together.
MpiBackend::~MpiBackend() = default;

// Calls start(bytes, count in units, request) for each piece, in order.
template <typename Start>
std::vector<MPI_Request> MpiBackend::in_pieces(const at::Tensor& t, int64_t unit_bytes, const Start& start) const {
  check_open();
  std::vector<MPI_Request> requests;
  auto* bytes = static_cast<char*>(t.mutable_data_ptr());
  const int64_t units = static_cast<int64_t>(t.nbytes()) / unit_bytes;
  const int64_t most = most_bytes_ / unit_bytes;
  const std::lock_guard lock(mpi_mutex());
  int64_t done = 0;
  do {
    const int64_t count = std::min(most, units - done);
    MPI_Request request = MPI_REQUEST_NULL;
    start(bytes + done * unit_bytes, static_cast<int>(count), &request);
    requests.push_back(request);
    done += count;
  } while (done < units);
  return requests;
}

// MPI ends the program where it is called with no communicator, or after its end.
bool MpiBackend::is_open() const {
  int finalized = 0;
  GRATICULE_MPI(MPI_Finalized(&finalized));
  return communicator_ != MPI_COMM_NULL && finalized == 0;
}

void MpiBackend::check_open() const { TORCH_CHECK(is_open(), "the group over MPI has been destroyed, or MPI ended"); }

bool MpiBackend::has_unreceived() const {
  int unreceived = 0;
  GRATICULE_MPI(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, communicator_, &unreceived, MPI_STATUS_IGNORE));
  return unreceived != 0;
}

// Messages of a rank arrive in their order: when every rank's farewell has come, so has all else that it sent.
bool MpiBackend::all_part() const {
  std::vector<MPI_Request> farewells;
  {
    const std::lock_guard lock(mpi_mutex());
    for (int peer = 0; peer < size_; ++peer) {
      if (peer == rank_) continue;
      MPI_Request sent = MPI_REQUEST_NULL;
      GRATICULE_MPI(MPI_Irecv(nullptr, 0, MPI_BYTE, peer, farewell_tag, communicator_, &farewells.emplace_back()));
      GRATICULE_MPI(MPI_Isend(nullptr, 0, MPI_BYTE, peer, farewell_tag, communicator_, &sent));
      GRATICULE_MPI(MPI_Request_free(&sent));
    }
  }
  const auto end = std::chrono::steady_clock::now() + parting_patience;
  while (true) {
    {
      const std::lock_guard lock(mpi_mutex());
      int all = 0;
      GRATICULE_MPI(MPI_Testall(static_cast<int>(farewells.size()), farewells.data(), &all, MPI_STATUSES_IGNORE));
      if (all != 0) return !has_unreceived();
      if (has_unreceived() || std::chrono::steady_clock::now() > end) break;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  const std::lock_guard lock(mpi_mutex());
  for (MPI_Request& farewell : farewells) {
    if (farewell == MPI_REQUEST_NULL) continue;
    GRATICULE_MPI(MPI_Cancel(&farewell));
    GRATICULE_MPI(MPI_Wait(&farewell, MPI_STATUS_IGNORE));
  }
  return false;
}

void MpiBackend::release() {
  if (!is_open()) return;
  // MPI ends the program where it frees a communicator to which a message is still under way.
  if (all_part()) {
    const std::lock_guard lock(mpi_mutex());
    GRATICULE_MPI(MPI_Comm_free(&communicator_));
  }
  communicator_ = MPI_COMM_NULL;
}

c10::intrusive_ptr<Work> MpiBackend::send(std::vector<at::Tensor>& tensors, int to, int tag) {
  const at::Tensor t = reachable(tensors.at(0));
  auto requests = in_pieces(t, 1, [&](char* bytes, int count, MPI_Request* request) {
    GRATICULE_MPI(MPI_Isend(bytes, count, MPI_BYTE, to, tag, communicator_, request));
  });
  return c10::make_intrusive<MpiWork>(std::move(requests), std::vector<at::Tensor>{t});
}

c10::intrusive_ptr<Work> MpiBackend::recv(std::vector<at::Tensor>& tensors, int from, int tag) {
  const at::Tensor t = reachable(tensors.at(0));
  auto requests = in_pieces(t, 1, [&](char* bytes, int count, MPI_Request* request) {
    GRATICULE_MPI(MPI_Irecv(bytes, count, MPI_BYTE, from, tag, communicator_, request));
  });
  return c10::make_intrusive<MpiWork>(std::move(requests), std::vector<at::Tensor>{t}, bring_back(t, tensors[0]));
}

c10::intrusive_ptr<Work> MpiBackend::allgather(std::vector<std::vector<at::Tensor>>& outputs,
                                               std::vector<at::Tensor>& inputs, const c10d::AllgatherOptions&) {
  const at::Tensor input = on_cpu(inputs.at(0));
  std::vector<at::Tensor> pieces;
  auto requests = in_pieces(input, 1, [&](char* bytes, int count, MPI_Request* request) {
    pieces.push_back(at::empty({size_, count}, at::kByte));
    GRATICULE_MPI(MPI_Iallgather(bytes, count, MPI_BYTE, pieces.back().mutable_data_ptr(), count, MPI_BYTE,
                                 communicator_, request));
  });
  const auto unpack = [pieces, targets = outputs.at(0)]() {
    for (size_t rank = 0; rank < targets.size(); ++rank) {
      int64_t done = 0;
      for (const at::Tensor& piece : pieces) {
        targets[rank].view(-1).view(at::kByte).narrow(0, done, piece.size(1)).copy_(piece[static_cast<int64_t>(rank)]);
        done += piece.size(1);
      }
    }
  };
  std::vector<at::Tensor> kept = pieces;
  kept.push_back(input);
  return c10::make_intrusive<MpiWork>(std::move(requests), std::move(kept), unpack);
}

c10::intrusive_ptr<Work> MpiBackend::allreduce(std::vector<at::Tensor>& tensors,
                                               const c10d::AllreduceOptions& options) {
  TORCH_CHECK(options.reduceOp == c10d::ReduceOp::SUM, "MPI groups add, and reduce by nothing else");
  const at::Tensor t = on_cpu(tensors.at(0));
  const MPI_Datatype type = type_of(t);
  auto requests =
      in_pieces(t, static_cast<int64_t>(t.element_size()), [&](char* bytes, int count, MPI_Request* request) {
        GRATICULE_MPI(MPI_Iallreduce(MPI_IN_PLACE, bytes, count, type, MPI_SUM, communicator_, request));
      });
  return c10::make_intrusive<MpiWork>(std::move(requests), std::vector<at::Tensor>{t}, bring_back(t, tensors[0]));
}

c10::intrusive_ptr<Work> MpiBackend::broadcast(std::vector<at::Tensor>& tensors,
                                               const c10d::BroadcastOptions& options) {
  const at::Tensor t = on_cpu(tensors.at(0));
  auto requests = in_pieces(t, 1, [&](char* bytes, int count, MPI_Request* request) {
    GRATICULE_MPI(MPI_Ibcast(bytes, count, MPI_BYTE, static_cast<int>(options.rootRank), communicator_, request));
  });
  return c10::make_intrusive<MpiWork>(std::move(requests), std::vector<at::Tensor>{t}, bring_back(t, tensors[0]));
}

c10::intrusive_ptr<Work> MpiBackend::barrier(const c10d::BarrierOptions&) {
  check_open();
  MPI_Request request = MPI_REQUEST_NULL;
  {
    const std::lock_guard lock(mpi_mutex());
    GRATICULE_MPI(MPI_Ibarrier(communicator_, &request));
  }
  return c10::make_intrusive<MpiWork>(std::vector<MPI_Request>{request}, std::vector<at::Tensor>{});
}

}  // namespace graticule::mpi

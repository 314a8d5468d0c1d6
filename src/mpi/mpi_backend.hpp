// A c10d backend over an MPI communicator.
#pragma once

#include <mpi.h>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

#include "comm/transports.hpp"

namespace graticule::mpi {

/// Contiguous tensors. Messages of a CUDA device go straight from its memory where MPI says that it can (and the
/// library waits for the current stream first), else by a copy on the CPU; collectives, which are small, always by such
/// a copy. Sums are the only reduction.
class MpiBackend : public c10d::Backend, public comm::ReachesDevices {
 public:
  /// Owns `communicator`. MPI counts in ints: what is larger than `most_bytes` travels in pieces.
  MpiBackend(MPI_Comm communicator, int rank, int size, int64_t most_bytes = int64_t{1} << 30);
  ~MpiBackend() override;

  const std::string getBackendName() const override { return "graticule_mpi"; }
  [[nodiscard]] bool reaches(const at::Device& device) const override;
  c10::intrusive_ptr<c10d::Work> send(std::vector<at::Tensor>& tensors, int to, int tag) override;
  c10::intrusive_ptr<c10d::Work> recv(std::vector<at::Tensor>& tensors, int from, int tag) override;
  c10::intrusive_ptr<c10d::Work> allgather(std::vector<std::vector<at::Tensor>>& outputs,
                                           std::vector<at::Tensor>& inputs, const c10d::AllgatherOptions&) override;
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions& options) override;
  c10::intrusive_ptr<c10d::Work> broadcast(std::vector<at::Tensor>& tensors,
                                           const c10d::BroadcastOptions& options) override;
  c10::intrusive_ptr<c10d::Work> barrier(const c10d::BarrierOptions&) override;

  /// Frees the communicator; collective. Leaves it to MPI where messages lie in it that nobody received, or some rank
  /// does not call within seconds. Later calls throw.
  void release();

 private:
  /// Whether neither release() nor the end of MPI has come.
  [[nodiscard]] bool is_open() const;
  /// c10::Error where it is not open.
  void check_open() const;
  /// Whether every rank has called it, and no message is left. No if a rank does not come.
  [[nodiscard]] bool all_part() const;
  [[nodiscard]] bool has_unreceived() const;

  template <typename Start>
  std::vector<MPI_Request> in_pieces(const at::Tensor& t, int64_t unit_bytes, const Start& start) const;

  MPI_Comm communicator_;
  int64_t most_bytes_;
};

}  // namespace graticule::mpi

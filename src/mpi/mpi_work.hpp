// Requests under way.
#pragma once

#include <ATen/core/Tensor.h>
#include <mpi.h>

#include <functional>
#include <mutex>
#include <string>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <vector>

#include "comm/moved_by_calls.hpp"

namespace graticule::mpi {

/// MPI allows one thread in it at a time where it is told so; every call is made under this mutex.
std::mutex& mpi_mutex();

/// Done when all its requests are. Keeps the tensors alive until then, and runs `finish` once after.
class MpiWork : public c10d::Work, public comm::MovedByCalls {
 public:
  MpiWork(std::vector<MPI_Request> requests, std::vector<at::Tensor> tensors, std::function<void()> finish = nullptr);
  ~MpiWork() override;
  bool isCompleted() override;
  bool isSuccess() const override;
  bool wait(std::chrono::milliseconds timeout) override;
  void keep_moving() override;

  /// Lets MPI work on the requests; true when nothing is left for it to do. From any thread; never throws: an error
  /// stays for the one who waits.
  bool advance() noexcept;

 private:
  bool test();
  bool test_requests();

  std::vector<MPI_Request> requests_;  // under the MPI mutex
  std::string error_;                  // under the MPI mutex
  std::vector<at::Tensor> tensors_;
  std::function<void()> finish_;
  bool moving_ = false;
  bool done_ = false;
};

}  // namespace graticule::mpi

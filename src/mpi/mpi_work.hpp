// Requests under way.
#pragma once

#include <ATen/core/Tensor.h>
#include <mpi.h>

#include <functional>
#include <mutex>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <vector>

namespace graticule::mpi {

/// MPI allows one thread in it at a time where it is told so; every call is made under this mutex.
std::mutex& mpi_mutex();

/// Done when all its requests are. Keeps the tensors alive until then, and runs `finish` once after.
class MpiWork : public c10d::Work {
 public:
  MpiWork(std::vector<MPI_Request> requests, std::vector<at::Tensor> tensors, std::function<void()> finish = nullptr);
  ~MpiWork() override;
  bool isCompleted() override;
  bool isSuccess() const override;
  bool wait(std::chrono::milliseconds timeout) override;

 private:
  bool test();

  std::vector<MPI_Request> requests_;
  std::vector<at::Tensor> tensors_;
  std::function<void()> finish_;
  bool done_ = false;
};

}  // namespace graticule::mpi

#include "mpi/mpi_work.hpp"

#include <ATen/ATen.h>

#include <thread>
#include <utility>

#include "comm/reason.hpp"
#include "mpi/mpi_error.hpp"
#include "mpi/progress.hpp"

namespace graticule::mpi {
namespace {

// Memory that MPI may still write to after a failure must outlive the request; there is no safe moment to free it.
void abandon(std::vector<at::Tensor> tensors) {
  static std::mutex mutex;
  static auto* const kept = new std::vector<at::Tensor>();
  const std::lock_guard lock(mutex);
  for (at::Tensor& tensor : tensors) kept->push_back(std::move(tensor));
}

}  // namespace

std::mutex& mpi_mutex() {
  static std::mutex mutex;
  return mutex;
}

MpiWork::MpiWork(std::vector<MPI_Request> requests, std::vector<at::Tensor> tensors, std::function<void()> finish)
    : requests_(std::move(requests)), tensors_(std::move(tensors)), finish_(std::move(finish)) {}

void MpiWork::keep_moving() {
  uint64_t bytes = 0;
  for (const at::Tensor& tensor : tensors_) {
    // Whoever waits for a device does so in MPI's calls already; another thread may have no context of the device.
    if (!tensor.device().is_cpu()) return;
    bytes += tensor.nbytes();
  }
  if (moving_ || done_ || bytes <= static_cast<uint64_t>(most_eager_bytes)) return;
  moving_ = true;
  mpi::keep_moving(*this);
}

MpiWork::~MpiWork() {
  if (moving_) drop(*this);
  if (!done_) abandon(std::move(tensors_));
}

// One by one: a failure in MPI_Testall goes to the error handler of MPI_COMM_WORLD, which may end the program.
bool MpiWork::test_requests() {
  for (MPI_Request& request : requests_) {
    int flag = 0;
    GRATICULE_MPI(MPI_Test(&request, &flag, MPI_STATUS_IGNORE));
    if (flag == 0) return false;
  }
  return true;
}

bool MpiWork::advance() noexcept {
  const std::unique_lock lock(mpi_mutex(), std::try_to_lock);
  if (!lock.owns_lock()) return false;
  try {
    return !error_.empty() || test_requests();
  } catch (const std::exception& error) {
    error_ = comm::reason(error);
    return true;
  }
}

bool MpiWork::test() {
  if (done_) return true;
  {
    const std::lock_guard lock(mpi_mutex());
    TORCH_CHECK(error_.empty(), error_);
    if (!test_requests()) return false;
  }
  if (moving_) drop(*this);
  moving_ = false;
  done_ = true;
  if (finish_) finish_();
  finish_ = nullptr;
  tensors_.clear();
  return true;
}

bool MpiWork::isCompleted() { return test(); }
bool MpiWork::isSuccess() const { return done_; }

bool MpiWork::wait(std::chrono::milliseconds timeout) {
  const auto begin = std::chrono::steady_clock::now();
  // Short waits are the rule: polling answers at once. Longer ones leave the processor to others.
  for (int64_t polls = 0; !test(); ++polls) {
    if (timeout != kNoTimeout && std::chrono::steady_clock::now() - begin > timeout) {
      TORCH_CHECK(false, "no answer within ", timeout.count(), " ms");
    }
    if (polls > 1000) std::this_thread::yield();
  }
  return true;
}

}  // namespace graticule::mpi

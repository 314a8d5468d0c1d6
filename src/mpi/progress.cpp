#include "mpi/progress.hpp"

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "mpi/mpi_error.hpp"
#include "mpi/mpi_work.hpp"

namespace graticule::mpi {
namespace {

using std::chrono::microseconds;

// Most messages need a few calls in quick succession. One that waits for a late rank is asked for less and less often,
// since every call takes time from the work that it hides behind.
constexpr microseconds first_pause{50};
constexpr microseconds last_pause{1000};

bool may_call_from_any_thread() {
  static const bool may = []() {
    int level = 0;
    GRATICULE_MPI(MPI_Query_thread(&level));
    return level == MPI_THREAD_MULTIPLE;
  }();
  return may;
}

class Progress {
 public:
  void add(MpiWork* work) {
    bool wake = false;
    {
      const std::lock_guard lock(mutex_);
      wake = pending_.empty();
      pending_.push_back(work);
      pause_ = first_pause;
      if (!thread_.joinable()) thread_ = std::thread([this]() { run(); });
    }
    if (wake) changed_.notify_one();
  }

  void remove(MpiWork* work) {
    const std::lock_guard lock(mutex_);
    pending_.erase(std::remove(pending_.begin(), pending_.end(), work), pending_.end());
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      if (!thread_.joinable()) return;
      stopping_ = true;
    }
    changed_.notify_one();
    thread_.join();
    thread_ = {};
    stopping_ = false;
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      if (pending_.empty()) {
        changed_.wait(lock, [this]() { return stopping_ || !pending_.empty(); });
        continue;
      }
      changed_.wait_for(lock, pause_, [this]() { return stopping_; });
      pause_ = std::min(2 * pause_, last_pause);
      pending_.erase(std::remove_if(pending_.begin(), pending_.end(), [](MpiWork* work) { return work->advance(); }),
                     pending_.end());
    }
  }

  std::mutex mutex_;  // held while a work is advanced: none is dropped meanwhile
  std::condition_variable changed_;
  std::vector<MpiWork*> pending_;
  microseconds pause_{first_pause};
  std::thread thread_;
  bool stopping_ = false;
};

// Never destroyed: at exit the thread may still wait in it.
Progress& progress() {
  static auto* const the = new Progress();
  return *the;
}

}  // namespace

void keep_moving(MpiWork& work) {
  if (may_call_from_any_thread()) progress().add(&work);
}
void drop(MpiWork& work) { progress().remove(&work); }
void stop_progress() { progress().stop(); }

}  // namespace graticule::mpi

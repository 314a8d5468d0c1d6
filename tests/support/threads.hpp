// Ranks as threads of one process.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "graticule/comm/domain.hpp"
#include "graticule/comm/exchange.hpp"
#include "graticule/comm/thread_group.hpp"

namespace graticule::support {

/// Ends the process with a message where it lives longer than `limit`: a deadlock becomes a failure with a name.
class Watchdog {
 public:
  Watchdog(std::string what, std::chrono::seconds limit)
      : thread_([this, what = std::move(what), limit] {
          std::unique_lock lock(mutex_);
          if (done_changed_.wait_for(lock, limit, [this] { return done_; })) return;
          std::fprintf(stderr, "%s: not done after %lld s\n", what.c_str(), static_cast<long long>(limit.count()));
          std::_Exit(EXIT_FAILURE);
        }) {}
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    done_changed_.notify_all();
    thread_.join();
  }

 private:
  std::mutex mutex_;
  std::condition_variable done_changed_;
  bool done_ = false;
  std::thread thread_;
};

namespace detail {

inline std::string next_world() {
  static std::atomic<int> count{0};
  return "threads_" + std::to_string(count++);
}

/// The exception that was thrown first: what other ranks throw later only follows from it.
class FirstError {
 public:
  void keep(std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::move(error);
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
};

inline void run_rank(const std::string& name, const std::function<void(const comm::Domain&)>& body, FirstError& error) {
  try {
    const auto domain = comm::Domain::from_group_name(name);
    try {
      body(domain);
    } catch (const std::exception& e) {
      error.keep(std::current_exception());
      comm::poison(domain, e.what());
    }
  } catch (...) {
    error.keep(std::current_exception());
  }
}

}  // namespace detail

/// Calls body(domain) on `size` threads, the ranks of one new domain, and returns when all have. What the first rank to
/// throw threw is thrown again here; the other ranks are told of it. torch's grad mode is thread local: on in each
/// rank.
inline void run_ranks(int size, const std::function<void(const comm::Domain&)>& body,
                      std::chrono::seconds limit = std::chrono::seconds(300)) {
  const auto world = detail::next_world();
  const Watchdog watchdog(world + " on " + std::to_string(size) + " ranks", limit);
  std::vector<std::string> names;
  for (int rank = 0; rank < size; ++rank) names.push_back(comm::create_thread_group(world, rank, size));
  detail::FirstError error;
  std::vector<std::thread> threads;
  for (const auto& name : names) threads.emplace_back([&] { detail::run_rank(name, body, error); });
  for (auto& thread : threads) thread.join();
  for (const auto& name : names) comm::destroy_thread_group(name);
  error.rethrow();
}

}  // namespace graticule::support

// What the C++ benchmarks share: quartiles, and a meeting of ranks that leaves the processor to the one that works.
#pragma once

#include <c10/util/Exception.h>
#include <mpi.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <thread>
#include <vector>

#include "graticule/mpi/mpi.hpp"

namespace graticule::benchmarks {

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Lower quartile, median and upper quartile, between values linearly. At least one value.
inline std::array<double, 3> quartiles(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  std::array<double, 3> result{};
  for (size_t i = 0; i < 3; ++i) {
    const double place = static_cast<double>(values.size() - 1) * static_cast<double>(i + 1) / 4;
    const auto below = static_cast<size_t>(std::floor(place));
    const size_t above = std::min(below + 1, values.size() - 1);
    result[i] = values[below] + (place - std::floor(place)) * (values[above] - values[below]);
  }
  return result;
}

/// Returns when all ranks have called. Sleeps while it waits.
inline void gather_ranks() {
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Ibarrier(MPI_COMM_WORLD, &request);
  for (int done = 0; done == 0;) {
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (done == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

/// Returns on all ranks at once.
inline void start_together() {
  gather_ranks();
  MPI_Barrier(MPI_COMM_WORLD);
}

/// The largest of the ranks' values, on every rank.
inline double largest(double value) {
  gather_ranks();
  MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return value;
}

/// What main returns: runs `run` with the arguments FILE.csv ITERATIONS SMOKE between MPI's begin and end.
template <typename Run>
int run_program(int argc, char** argv, const Run& run) {
  try {
    TORCH_CHECK_VALUE(argc == 4, "usage: ", argv[0], " FILE.csv ITERATIONS SMOKE");
    mpi::initialize();
    run(argv[1], std::atoi(argv[2]), std::atoi(argv[3]) != 0);
    mpi::finalize();
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}

}  // namespace graticule::benchmarks

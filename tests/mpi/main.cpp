// Runs the tests on every rank; a failure on any of them fails the run on all.
#include <gtest/gtest.h>
#include <mpi.h>

#include "graticule/mpi/mpi.hpp"

int main(int argc, char** argv) {
  graticule::mpi::initialize();
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  ::testing::InitGoogleTest(&argc, argv);
  // One report is enough; failures of the others go to the error stream.
  if (rank != 0) {
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
  }
  int failed = RUN_ALL_TESTS();
  int any = 0;
  MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  graticule::mpi::finalize();
  return any;
}

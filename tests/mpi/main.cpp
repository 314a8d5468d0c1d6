// Runs the tests on every rank; a failure on any of them fails the run on all.
//
// With GRATICULE_TEST_HOST set this program is a host that initialises MPI itself, for its main thread alone, and must
// still have it after graticule::mpi::finalize().
#include <gtest/gtest.h>
#include <mpi.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "graticule/mpi/mpi.hpp"

namespace {

bool is_finalized() {
  int flag = 0;
  MPI_Finalized(&flag);
  return flag != 0;
}

// Says failures on the error stream, with the rank.
class FailuresOfARank : public ::testing::EmptyTestEventListener {
 public:
  explicit FailuresOfARank(int rank) : rank_(rank) {}

 private:
  void OnTestStart(const ::testing::TestInfo& test) override { test_ = test.name(); }
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (result.failed()) std::fprintf(stderr, "rank %d: %s: %s\n", rank_, test_.c_str(), result.message());
  }

  int rank_;
  std::string test_;
};

int run_tests(int argc, char** argv) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  ::testing::InitGoogleTest(&argc, argv);
  // One report is enough; of the other ranks, what fails.
  if (rank != 0) {
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailuresOfARank(rank));
  }
  int failed = RUN_ALL_TESTS();
  int any = 0;
  MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  return any;
}

}  // namespace

int main(int argc, char** argv) {
  const bool host = std::getenv("GRATICULE_TEST_HOST") != nullptr;
  int level = 0;
  if (host) MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  graticule::mpi::initialize();
  const int failed = run_tests(argc, argv);
  graticule::mpi::finalize();
  if (is_finalized() == host) {
    std::fprintf(stderr, "finalize() %s\n", host ? "took the host's MPI down" : "left MPI running");
    return 1;
  }
  graticule::mpi::finalize();
  if (host) MPI_Finalize();
  return failed;
}

// One exchange of halo rows between two ranks against MPI_Isend, MPI_Irecv and MPI_Waitall of the same bytes.
//
// Usage: halo_exchange_benchmark FILE.csv ITERATIONS SMOKE, under mpiexec -n 2. Rows come from a tensor (1, C, H, W) as
// layers hold it, so that an exchange packs them; raw MPI sends from memory that is packed already.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <mpi.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "graticule/halo/exchange.hpp"
#include "graticule/halo/plans.hpp"
#include "graticule/mpi/mpi.hpp"
#include "graticule/rows/partition.hpp"
#include "programs.hpp"

namespace graticule::benchmarks {
namespace {

constexpr int most_ranks = 2;

struct Case {
  int64_t channels, columns, rows;
  [[nodiscard]] int64_t bytes() const { return channels * columns * rows * static_cast<int64_t>(sizeof(float)); }
};

// 1 kB, 184 kB and 1.5 MB: one row of 4 channels; one of 64 channels of a quarter-degree grid's half; eight of those.
const std::vector<Case> cases{{4, 64, 1}, {64, 720, 1}, {64, 720, 8}};

class Exchange {
 public:
  Exchange(const Case& c, const comm::Domain& domain)
      : domain_(domain), x_(at::randn({1, c.channels, local_rows, c.columns})) {
    const auto partition = rows::Partition::balanced(local_rows * most_ranks, most_ranks);
    const int64_t cut = local_rows;
    plan_ = halo::find_plan(partition, {{cut, cut + c.rows}, {cut - c.rows, cut}}, rows::Boundary::none, domain.rank());
  }
  void operator()() const { halo::Gather(x_, plan_, {2}, domain_, "benchmark").finish(); }

 private:
  static constexpr int64_t local_rows = 16;
  comm::Domain domain_;
  at::Tensor x_;
  std::shared_ptr<const rows::ExchangePlan> plan_;
};

class RawExchange {
 public:
  RawExchange(const Case& c, int rank) : sent_(c.bytes(), 1), received_(c.bytes()), peer_(1 - rank) {}
  void operator()() {
    std::vector<MPI_Request> requests(2);
    const int bytes = static_cast<int>(sent_.size());
    MPI_Irecv(received_.data(), bytes, MPI_BYTE, peer_, 0, MPI_COMM_WORLD, requests.data());
    MPI_Isend(sent_.data(), bytes, MPI_BYTE, peer_, 0, MPI_COMM_WORLD, requests.data() + 1);
    MPI_Waitall(2, requests.data(), MPI_STATUSES_IGNORE);
  }

 private:
  std::vector<char> sent_, received_;
  int peer_;
};

// Microseconds of one call, the ranks' largest, over a block of calls.
double block(const std::function<void()>& call, int calls) {
  start_together();
  const double begun = now();
  for (int i = 0; i < calls; ++i) call();
  return largest((now() - begun) / calls * 1e6);
}

struct Times {
  std::vector<double> raw, cut, ratios;
};

Times measure(const Case& c, const comm::Domain& domain, int blocks, int calls) {
  const Exchange exchange(c, domain);
  RawExchange raw(c, domain.rank());
  Times times;
  for (int i = -2; i < blocks; ++i) {
    double raw_us = 0;
    double cut_us = 0;
    if (i % 2 == 0) {
      raw_us = block(raw, calls);
      cut_us = block(exchange, calls);
    } else {
      cut_us = block(exchange, calls);
      raw_us = block(raw, calls);
    }
    if (i < 0) continue;
    times.raw.push_back(raw_us);
    times.cut.push_back(cut_us);
    times.ratios.push_back(cut_us / raw_us);
  }
  return times;
}

void run(const std::string& path, int iterations, bool smoke) {
  const comm::Domain domain = mpi::create_domain(MPI_COMM_WORLD, "world");
  TORCH_CHECK(domain.size() == most_ranks, "the exchange is timed between 2 ranks, got ", domain.size());
  at::set_num_threads(1);
  std::ofstream file;
  if (domain.rank() == 0) {
    file.open(path);
    file << "bytes,raw_us,graticule_us,ratio,ratio_q1,ratio_q3\n";
  }
  const int blocks = smoke ? 2 : 10 * iterations;
  const int calls = smoke ? 5 : 50;
  for (const Case& c : cases) {
    const Times times = measure(c, domain, blocks, calls);
    const auto ratios = quartiles(times.ratios);
    file << c.bytes() << ',' << quartiles(times.raw)[1] << ',' << quartiles(times.cut)[1] << ',' << ratios[1] << ','
         << ratios[0] << ',' << ratios[2] << '\n';
  }
}

}  // namespace
}  // namespace graticule::benchmarks

int main(int argc, char** argv) { return graticule::benchmarks::run_program(argc, argv, graticule::benchmarks::run); }

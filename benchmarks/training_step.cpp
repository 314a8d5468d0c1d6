// A training step of the program's U-Net on one rank and on all.
//
// Usage: training_step_benchmark FILE.csv ITERATIONS SMOKE, under mpiexec. The contenders take turns: the uncut network
// on rank 0 with one thread, the same with as many threads as there are ranks (the other ranks sleep), the network cut
// over the ranks, and each rank with a network of its own on as many rows as it has, with no communication: the limit.
// The grid and the batch are those of the program's defaults.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <mpi.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "emulator.hpp"
#include "graticule/mpi/mpi.hpp"
#include "graticule/nn/sharding.hpp"
#include "graticule/rows/partition.hpp"
#include "programs.hpp"
#include "training.hpp"

namespace graticule::benchmarks {
namespace {

using OptionalDomain = std::optional<comm::Domain>;

std::vector<double> latitudes(int64_t rows) {
  std::vector<double> result;
  for (int64_t i = 0; i < rows; ++i) {
    result.push_back(-90 + 180.0 * static_cast<double>(i) / static_cast<double>(rows - 1));
  }
  return result;
}

at::Tensor own_rows(const at::Tensor& whole, int64_t dim, const OptionalDomain& domain) {
  return domain.has_value() ? shard_tensor(whole, dim, *domain) : whole;
}

class Step {
 public:
  Step(const apps::EmulatorOptions& o, int64_t batch, const OptionalDomain& domain)
      : domain_(domain), model_(o, latitudes(o.rows), domain), optimizer_(apps::make_optimizer(model_, 1e-4)) {
    at::manual_seed(0);
    const auto inputs = at::randn({batch, o.input_channels, o.input_times, o.rows, o.columns});
    const auto targets = at::randn({batch, o.output_channels, o.output_times, o.rows, o.columns});
    inputs_ = own_rows(inputs, -2, domain);
    targets_ = own_rows(targets, -2, domain);
    weights_ = own_rows(at::full({o.rows, 1}, 1.0 / static_cast<double>(o.rows)), 0, domain);
    model_->initialise(0);
  }

  void operator()() {
    optimizer_.zero_grad();
    apps::loss_part(model_->forward(inputs_), targets_, weights_).backward();
    if (domain_.has_value()) sync_domain_gradients(model_->parameters(), *domain_);
    optimizer_.step();
  }

 private:
  OptionalDomain domain_;
  apps::Emulator model_;
  torch::optim::AdamW optimizer_;
  at::Tensor inputs_, targets_, weights_;
};

struct Contender {
  std::string name;
  int threads = 1;
  std::function<void()> step;  // empty where this rank sleeps
  std::vector<double> seconds;
};

double turn(const Contender& contender) {
  at::set_num_threads(contender.threads);
  start_together();
  const double begun = now();
  if (contender.step) contender.step();
  const double seconds = contender.step ? now() - begun : 0;
  at::set_num_threads(1);
  gather_ranks();
  std::this_thread::sleep_for(std::chrono::milliseconds(contender.threads > 1 ? 10 : 0));
  return largest(seconds);
}

void write(const std::string& path, const std::vector<Contender>& contenders) {
  std::ofstream file(path);
  file << "contender,median_ms,ratio,ratio_q1,ratio_q3\n";
  const std::vector<double>& base = contenders.front().seconds;
  for (const Contender& contender : contenders) {
    std::vector<double> ratios;
    for (size_t i = 0; i < base.size(); ++i) ratios.push_back(contender.seconds[i] / base[i]);
    const auto q = quartiles(ratios);
    file << contender.name << ',' << quartiles(contender.seconds)[1] * 1e3 << ',' << q[1] << ',' << q[0] << ',' << q[2]
         << '\n';
  }
}

void run(const std::string& path, int iterations, bool smoke) {
  const comm::Domain domain = mpi::create_domain(MPI_COMM_WORLD, "world");
  at::set_num_threads(1);
  apps::EmulatorOptions options;
  if (smoke) options.rows = 18, options.columns = 16, options.channels = 8;
  const int64_t batch = smoke ? 1 : 8;
  const bool first = domain.rank() == 0;
  std::optional<Step> uncut;
  if (first) uncut.emplace(options, batch, std::nullopt);
  Step cut(options, batch, domain);
  apps::EmulatorOptions own = options;
  own.rows = rows::Partition::balanced(options.rows, domain.size()).interval(domain.rank()).size();
  // The network wants so many.
  const bool enough = options.rows / domain.size() >= 9;
  std::optional<Step> apart;
  if (enough) apart.emplace(own, batch, std::nullopt);
  const std::function<void()> alone = first ? std::function<void()>([&] { (*uncut)(); }) : nullptr;
  const std::string ranks = std::to_string(domain.size());
  std::vector<Contender> contenders{{"1 rank of 1 thread", 1, alone, {}},
                                    {"1 rank of " + ranks + " threads", domain.size(), alone, {}},
                                    {ranks + " ranks of 1 thread", 1, [&] { cut(); }, {}}};
  if (enough) contenders.push_back({ranks + " ranks of 1 thread, each its own grid", 1, [&] { (*apart)(); }, {}});
  for (int i = -2; i < iterations; ++i) {
    for (size_t j = 0; j < contenders.size(); ++j) {
      Contender& contender = contenders[(j + static_cast<size_t>(i + 2)) % contenders.size()];
      const double seconds = turn(contender);
      if (i >= 0) contender.seconds.push_back(seconds);
    }
  }
  if (first) write(path, contenders);
}

}  // namespace
}  // namespace graticule::benchmarks

int main(int argc, char** argv) { return graticule::benchmarks::run_program(argc, argv, graticule::benchmarks::run); }

#include "program.hpp"

#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "graticule/comm/domain.hpp"
#include "graticule/mpi/mpi.hpp"
#include "options.hpp"
#include "train_command.hpp"

namespace graticule::apps {
namespace {

constexpr int failure = 1;
constexpr int wrong_usage = 2;
constexpr std::chrono::milliseconds message_delay{1000};

std::string usage() {
  return "usage: graticule COMMAND [OPTION...]\n"
         "       mpiexec -n RANKS graticule COMMAND [OPTION...]\n\n"
         "commands\n"
         "  train                     " +
         train_summary() +
         "\n\noptions\n"
         "  --help                    show this; `graticule COMMAND --help` shows the command's options\n"
         "  --version                 show the version\n";
}

int run_command(const std::vector<std::string>& arguments, const comm::Domain& domain) {
  const bool speaks = domain.rank() == 0;
  const std::string command = arguments.empty() ? "" : arguments[0];
  if (command == "train") return train_command(arguments, domain);
  if (command == "--help" || command == "-h") {
    if (speaks) fmt::print("{}", usage());
    return 0;
  }
  if (command == "--version") {
    if (speaks) fmt::print("graticule {}\n", GRATICULE_VERSION);
    return 0;
  }
  if (command.empty()) throw OptionError("no command given");
  throw OptionError("unknown command '" + command + "'");
}

// The first line of what torch's exceptions say, without the stack below it.
std::string message_of(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  return torch_error != nullptr ? torch_error->what_without_backtrace() : error.what();
}

[[noreturn]] void end_all_ranks(const std::string& message, int rank, int ranks) {
  // An error that all ranks meet is told once: by rank 0, which ends the others while they wait.
  if (rank != 0) std::this_thread::sleep_for(2 * message_delay);
  fmt::print(stderr, "graticule: {} (rank {} of {})\n", message, rank, ranks);
  std::fflush(nullptr);
  // mpiexec drops what it has not passed on yet when a rank aborts.
  std::this_thread::sleep_for(message_delay);
  MPI_Abort(MPI_COMM_WORLD, failure);
  std::_Exit(failure);
}

}  // namespace

int run_program(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  mpi::initialize();
  int rank = 0, ranks = 1, code = failure;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  try {
    const comm::Domain domain = comm::Domain::from_group_name(mpi::create_group(MPI_COMM_WORLD, "graticule"));
    code = run_command(arguments, domain);
  } catch (const OptionError& error) {
    if (rank == 0)
      fmt::print(stderr, "graticule: {}\n`graticule --help` and `graticule COMMAND --help` tell more\n", error.what());
    code = wrong_usage;
  } catch (const std::exception& error) {
    end_all_ranks(message_of(error), rank, ranks);
  }
  mpi::finalize();
  return code;
}

}  // namespace graticule::apps

// The program `graticule`: finds the subcommand, and ends on every rank whatever happens on one.
#pragma once

namespace graticule::apps {

/// Starts and ends MPI. Returns the exit code: 0, 1 where a command failed, 2 where the command line is wrong. An error
/// of one rank ends the program on all of them.
int run_program(int argc, char** argv);

}  // namespace graticule::apps

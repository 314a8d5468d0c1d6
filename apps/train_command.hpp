// The subcommand `graticule train`.
#pragma once

#include <string>
#include <vector>

#include "graticule/comm/domain.hpp"

namespace graticule::apps {

/// Trains a weather emulator on a grid cut over the domain's ranks, evaluates it and checks that cut and uncut agree.
/// arguments[0] is "train". Returns the program's exit code, the same on every rank. Throws OptionError on a wrong
/// command line (on every rank), and whatever fails. Collective; prints on rank 0.
int train_command(const std::vector<std::string>& arguments, const comm::Domain& domain);

/// One line for the program's help.
std::string train_summary();

}  // namespace graticule::apps

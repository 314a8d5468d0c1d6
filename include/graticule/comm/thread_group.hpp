// Ranks as threads of one process: for tests, and for trying a cut without starting processes. Their tensors are the
// CPU's: on a device autograd would have one thread for all ranks, which then wait for each other without end.
#pragma once

#include <string>

namespace graticule::comm {

/// What the backends of such groups call themselves.
inline constexpr const char* thread_backend_name = "graticule_threads";

/// Makes rank `rank` of a group of `size` threads that share the name `world`, registers it under a name of its own and
/// returns that name. Every rank's thread calls once; no rank waits for another. The group lives until
/// destroy_thread_group.
std::string create_thread_group(const std::string& world, int rank, int size);

/// Takes the group out of the registry. A peer that still waits for this rank gets its timeout.
void destroy_thread_group(const std::string& name);

}  // namespace graticule::comm

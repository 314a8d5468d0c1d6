// Domains over MPI communicators.
//
// Messages go through a duplicate of the communicator, so they never meet the host program's. Errors of MPI become
// exceptions. MPI must offer MPI_THREAD_SERIALIZED or more where several threads use graticule; calls are serialised
// here.
//
// MPI moves large messages only while it is called. With MPI_THREAD_MULTIPLE a thread of the library calls it now and
// then while a layer computes, so that halos travel during the local work; it rests otherwise. With a lower
// level they travel when they are waited for.
#pragma once

#include <mpi.h>

#include <string>

#include "graticule/comm/domain.hpp"

namespace graticule::mpi {

/// Initialises MPI (asking for MPI_THREAD_MULTIPLE) unless it is initialised already. Safe to call again.
void initialize();

/// Destroys every group made here and finalises MPI if it was initialised by initialize(), else leaves it to the host.
void finalize();

/// Makes a process group of the communicator's ranks and registers it under `name`, for comm::Domain::from_group_name.
/// Collective over the communicator. Returns the name. Throws c10::Error where MPI is not initialised, its thread level
/// is MPI_THREAD_FUNNELED or less and this is not the main thread, or the name is taken.
std::string create_group(MPI_Comm communicator, const std::string& name);

/// The domain of the communicator's ranks: create_group, then Domain::from_group_name.
comm::Domain create_domain(MPI_Comm communicator, const std::string& name);

/// Takes the group out of the registry and frees its communicator; after a failure the communicator stays, since MPI
/// could hand messages that are still on their way to a later one. Collective.
void destroy_group(const std::string& name);

}  // namespace graticule::mpi

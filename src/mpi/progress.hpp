// Large messages kept moving while nobody waits for them.
//
// MPI moves a large message only while it is called: without help, a halo that is on its way during a convolution would
// begin to travel when the convolution is done. A thread of its own calls MPI now and then, only while such a message
// is under way, and not at all where MPI was not initialised with MPI_THREAD_MULTIPLE.
#pragma once

#include <cstdint>

namespace graticule::mpi {

class MpiWork;

/// Messages of more bytes than this are kept moving; MPI sends smaller ones without the receiver's help.
constexpr int64_t most_eager_bytes = 4096;

/// Keeps `work` moving until it is complete or dropped.
void keep_moving(MpiWork& work);

/// Must be called before `work` ends.
void drop(MpiWork& work);

/// Ends the thread, before MPI ends. It starts again when it is needed.
void stop_progress();

}  // namespace graticule::mpi

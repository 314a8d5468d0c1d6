// MPI's return codes as exceptions.
#pragma once

#include <c10/util/Exception.h>
#include <mpi.h>

#include <string>

namespace graticule::mpi {

inline void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::string text(MPI_MAX_ERROR_STRING, '\0');
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  text.resize(static_cast<size_t>(length));
  TORCH_CHECK(false, call, ": ", text);
}

#define GRATICULE_MPI(call) ::graticule::mpi::check((call), #call)

}  // namespace graticule::mpi

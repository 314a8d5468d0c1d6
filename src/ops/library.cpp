// The library's name for the dispatcher; each file of ops adds its own.
#include <torch/library.h>

TORCH_LIBRARY(graticule, m) {
  m.def("built_for_torch() -> str", []() -> std::string { return GRATICULE_TORCH_VERSION; });
}

# Imports libtorch from the torch package of Python3_EXECUTABLE as target graticule::torch.
#
# find_package(Torch) is not used: where torch is a CUDA build it requires a CUDA toolkit, and graticule compiles no CUDA code.
# The environment that `make build` made serves a project that adds this folder, too, unless it names its own Python.
if(NOT DEFINED Python3_EXECUTABLE AND EXISTS "${PROJECT_SOURCE_DIR}/.venv/bin/python")
  set(Python3_EXECUTABLE "${PROJECT_SOURCE_DIR}/.venv/bin/python")
endif()
find_package(Python3 REQUIRED COMPONENTS Interpreter)
execute_process(
  COMMAND "${Python3_EXECUTABLE}" -c
          "import os, torch; print(os.path.dirname(torch.__file__)); print(torch.__version__); print(int(torch._C._GLIBCXX_USE_CXX11_ABI))"
  OUTPUT_VARIABLE torch_facts
  RESULT_VARIABLE torch_result
  OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT torch_result EQUAL 0)
  message(FATAL_ERROR "graticule: ${Python3_EXECUTABLE} cannot import torch. Name a Python that can with -DPython3_EXECUTABLE=..., or run `make build` in graticule's folder.")
endif()
string(REPLACE "\n" ";" torch_facts "${torch_facts}")
list(GET torch_facts 0 GRATICULE_TORCH_DIR)
list(GET torch_facts 1 GRATICULE_TORCH_VERSION)
list(GET torch_facts 2 torch_cxx11_abi)
message(STATUS "graticule: libtorch ${GRATICULE_TORCH_VERSION} in ${GRATICULE_TORCH_DIR}")

foreach(name torch_cpu c10)
  add_library(graticule_${name} SHARED IMPORTED)
  set_target_properties(graticule_${name} PROPERTIES IMPORTED_LOCATION "${GRATICULE_TORCH_DIR}/lib/lib${name}.so")
endforeach()

add_library(graticule_torch INTERFACE)
add_library(graticule::torch ALIAS graticule_torch)
target_include_directories(graticule_torch SYSTEM INTERFACE
  "${GRATICULE_TORCH_DIR}/include" "${GRATICULE_TORCH_DIR}/include/torch/csrc/api/include")
# The definitions that torch's own CMake files give to whoever includes its distributed headers.
target_compile_definitions(graticule_torch INTERFACE
  USE_DISTRIBUTED USE_C10D_GLOO USE_RPC USE_TENSORPIPE _GLIBCXX_USE_CXX11_ABI=${torch_cxx11_abi})
target_link_libraries(graticule_torch INTERFACE graticule_torch_cpu graticule_c10)
find_package(Threads REQUIRED)
target_link_libraries(graticule_torch INTERFACE Threads::Threads)

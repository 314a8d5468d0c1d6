# Each target sets up what it needs, in .venv and build/.
PYTHON ?= python3
RANKS ?= 2
# Processes that the Python tests are spread over; 0: no others than pytest itself.
TEST_WORKERS ?= 2
# Whether the C++ tests are built; once they are, they stay.
TESTS ?= $(if $(wildcard build/dev/tests),ON,OFF)
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
export CCACHE_SLOPPINESS ?= pch_defines,time_macros,include_file_mtime,include_file_ctime
export OMP_NUM_THREADS ?= 1

.PHONY: help build demo test test-cpp test-python test-models models-table gtest bench bench-smoke bench-check bench-programs lint tidy format clean

help:
	@echo 'make build   .venv with the Python package, build/ with the C++ library and the program'
	@echo 'make demo    train a weather emulator cut by latitude on RANKS=2 MPI ranks'
	@echo 'make test    every test but those of models by other people: C++, Python, Gloo and MPI processes'
	@echo 'make test-models  models by other people, cut and uncut; installs them (requirements-models.txt)'
	@echo 'make bench   time every layer against its local work (one to three hours on an idle machine); docs/benchmarks.md'
	@echo 'make bench-smoke  that every row and contender works, without timing; make bench-check: ratios against stored ones'
	@echo 'make lint    clang-format, ruff and mypy; make tidy: clang-tidy'
	@echo 'make clean   remove .venv and build/'

# What builds and tests need, from the package index; see docs/dependencies.md.
$(VENV)/.ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -r requirements.txt
	touch $@

# Warnings end the build for developers and in CI, not for users with a compiler that nobody has tried.
WERROR ?= $(if $(CI),ON,OFF)

build: $(VENV)/.ready
	$(VENV)/bin/cmake --preset dev -DGRATICULE_WARNINGS_AS_ERRORS=$(WERROR) -DGRATICULE_BUILD_TESTS=$(TESTS) $(CMAKE_FLAGS)
	$(VENV)/bin/cmake --build --preset dev
	$(VENV)/bin/python tools/link_package.py build/dev $(VENV)

demo: build
	$(VENV)/bin/mpiexec -n $(RANKS) build/dev/bin/graticule train --out demo-output --require-skill $(DEMO_FLAGS)

# One after the other: both build, and the second must see what the first has configured.
test:
	$(MAKE) test-cpp
	$(MAKE) test-python

test-cpp: gtest
	$(MAKE) build TESTS=ON
	$(VENV)/bin/ctest --preset dev

PYTEST := $(VENV)/bin/python -m pytest tests/python --ignore=tests/python/models
test-python: build
	$(PYTEST) -n $(TEST_WORKERS) --dist worksteal -m "not undisturbed"
	$(PYTEST) -m undisturbed

$(VENV)/.models: $(VENV)/.ready requirements-models.txt
	$(PIP) install --quiet --no-deps -r requirements-models.txt
	touch $@

# On so many ranks each, with commas between.
MODEL_RANKS ?= 2,3
test-models: build $(VENV)/.models
	GRATICULE_MODEL_RANKS=$(MODEL_RANKS) $(VENV)/bin/python -m pytest tests/python/models

# The table of docs/models.md.
models-table: build $(VENV)/.models
	cd tests/python && ../../$(VENV)/bin/python -m models.table

gtest:
	tools/get_gtest.sh

# Tables and pictures go into README.md and docs/benchmarks.md; tables as CSV into build/bench.
bench: bench-programs
	$(VENV)/bin/python -m benchmarks --ranks $(RANKS) --publish $(BENCH_FLAGS)

# Every row and contender on tiny tensors: shows that the benchmark works, and times nothing.
bench-smoke: bench-programs
	$(VENV)/bin/python -m benchmarks --smoke --out build/bench/smoke $(BENCH_FLAGS)

# Ratios of a run beside the stored ones, peak memory with the layers' times; of an earlier run, where BENCH_CSV names its
# folder, or layers.csv in it; CHECK_FLAGS=--partial: of a run of some rows or parts, only what it has.
bench-check: $(if $(BENCH_CSV),,bench-programs)
	$(if $(BENCH_CSV),,$(VENV)/bin/python -m benchmarks --parts layer_times,tiny,dispatch,traffic,halo_exchange $(BENCH_FLAGS))
	$(VENV)/bin/python -m benchmarks.check $(CHECK_FLAGS) $(or $(BENCH_CSV),build/bench)

bench-programs:
	$(MAKE) build CMAKE_FLAGS="$(CMAKE_FLAGS) -DGRATICULE_BUILD_BENCHMARKS=ON"

lint: build
	$(VENV)/bin/clang-format --dry-run --Werror $$(git ls-files '*.cpp' '*.hpp')
	$(VENV)/bin/ruff check python tests tools benchmarks
	$(VENV)/bin/ruff format --check python tests tools benchmarks
	$(VENV)/bin/mypy

# Two files at a time; headers are seen through them. CI names the rooms that everything stands on: each file takes long.
TIDY ?= src/*.cpp
tidy: build
	git ls-files '$(TIDY)' | \
	  xargs -P 2 -n 4 $(VENV)/bin/clang-tidy -p build/dev --quiet --extra-arg=-Wno-ignored-gch

format: $(VENV)/.ready
	$(VENV)/bin/clang-format -i $$(git ls-files '*.cpp' '*.hpp')
	$(VENV)/bin/ruff format python tests tools benchmarks
	$(VENV)/bin/ruff check --fix python tests tools benchmarks

clean:
	rm -rf $(VENV) build .deps

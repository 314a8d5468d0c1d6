"""The benchmark: what a cut layer costs beside its local work. Start it with `make bench`; see docs/benchmarks.md."""

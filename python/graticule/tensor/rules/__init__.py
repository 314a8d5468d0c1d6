"""The rules: a file for each family of ops. Importing them registers them."""

from graticule.tensor.rules import pointwise, same_rows, sums

__all__ = ["pointwise", "same_rows", "sums"]

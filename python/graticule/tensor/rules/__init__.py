"""The rules: a file for each family of ops. Importing them registers them."""

from graticule.tensor.rules import order, pointwise, reinterpret, reshape, same_rows, shuffles, sums, unfolding

__all__ = ["order", "pointwise", "reinterpret", "reshape", "same_rows", "shuffles", "sums", "unfolding"]

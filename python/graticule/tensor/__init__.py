"""Whole models on cut tensors: DomainTensor, the rules by which ATen's ops act on it, and what is built on them."""

"""Neural-network layers that stay exact when one spatial dimension of their input is cut over processes."""

from graticule import _library as _library  # loads the ops first
from graticule.compiling import register_effects
from graticule.domain import Domain
from graticule.exchange import fold_rows, fold_rows_of_each, gather_rows, gather_rows_of_each
from graticule.parallelization import parallelize, unparallelize
from graticule.periodic import PeriodicConv2d
from graticule.planning import Plan, plan
from graticule.tensor import rules as _rules  # noqa: F401  registers them
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.dtensor import from_dtensor, to_dtensor
from graticule.tensor.face import from_local, shard
from graticule.tensor.random import check_generators, synchronize_generators
from graticule.tensor.registry import rule
from graticule.tensor.report import report
from graticule.verification import Verification, verify

register_effects()

__version__ = "0.1.0"

__all__ = [
    "Domain",
    "DomainTensor",
    "PeriodicConv2d",
    "Plan",
    "Verification",
    "__version__",
    "check_generators",
    "fold_rows",
    "fold_rows_of_each",
    "from_dtensor",
    "from_local",
    "gather_rows",
    "gather_rows_of_each",
    "parallelize",
    "plan",
    "report",
    "rule",
    "shard",
    "synchronize_generators",
    "to_dtensor",
    "unparallelize",
    "verify",
]

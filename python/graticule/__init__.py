"""Neural-network layers that stay exact when one spatial dimension of their input is cut over processes."""

from graticule import _library as _library  # loads the ops first
from graticule.compiling import register_effects
from graticule.domain import Domain
from graticule.exchange import fold_rows, gather_rows
from graticule.periodic import PeriodicConv2d

register_effects()

__version__ = "0.1.0"

__all__ = ["Domain", "PeriodicConv2d", "__version__", "fold_rows", "gather_rows"]

"""What the environment asks for."""

import os


def check_mode() -> bool:
    """Whether GRATICULE_CHECK asks for the ranks' calls to be compared."""
    return os.environ.get("GRATICULE_CHECK", "0") not in ("", "0")

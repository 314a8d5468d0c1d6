"""What the environment asks for."""

import os

from graticule.compiling import at_trace_time


def check_mode() -> bool:
    """Whether GRATICULE_CHECK asks for the ranks' calls to be compared."""
    return os.environ.get("GRATICULE_CHECK", "0") not in ("", "0")


@at_trace_time
def traced_check_mode() -> bool:
    """The same, where torch.compile traces: what is asked for then holds for the compiled code."""
    return check_mode()

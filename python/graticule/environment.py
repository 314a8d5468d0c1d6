"""What the environment asks for."""

import os

from graticule.compiling import at_trace_time

_CHECK = "GRATICULE_CHECK"
# What os.environ looks into, where it is the dictionary that it is in CPython: every call of a layer asks.
_environ = os.environ
_entries = getattr(_environ, "_data", None)
_entry = getattr(_environ, "encodekey", str)(_CHECK)


def check_mode() -> bool:
    """Whether GRATICULE_CHECK asks for the ranks' calls to be compared."""
    if os.environ is _environ and isinstance(_entries, dict) and _entry not in _entries:
        return False
    return os.environ.get(_CHECK, "0") not in ("", "0")


@at_trace_time
def traced_check_mode() -> bool:
    """The same, where torch.compile traces: what is asked for then holds for the compiled code."""
    return check_mode()

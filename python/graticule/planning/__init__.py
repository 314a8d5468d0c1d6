"""What a cut model would need, found without running it."""

from graticule.planning.plan import Plan, plan

__all__ = ["Plan", "plan"]

"""Models uncut and cut, compared."""

from graticule.verification.check import Verification, verify

__all__ = ["Verification", "verify"]

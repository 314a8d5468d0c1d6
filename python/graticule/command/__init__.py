"""The command: what a model does when it is cut, asked for from a shell."""

from graticule.command.arguments import main

__all__ = ["main"]

"""The command line: `mixtura run | check | probe | demo | show | why | train | schema | serve`."""

from mixtura.cli.app import main

__all__ = ["main"]

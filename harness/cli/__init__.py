"""The `harness` command."""

from harness.cli.commands import main

__all__ = ["main"]

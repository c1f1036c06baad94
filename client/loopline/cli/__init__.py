"""The `loopline` command: one module a group of commands."""

from loopline.cli.app import main

__all__ = ["main"]

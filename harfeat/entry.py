"""The command `harfeat`: an interruption while its libraries load, which takes seconds, ends as any other does."""

from __future__ import annotations

import sys


def main() -> None:
    """Load the command and run it."""
    try:
        from harfeat.cli import main as command  # noqa: PLC0415 - this is what takes seconds
    except KeyboardInterrupt:
        print("harfeat: interrupted", file=sys.stderr)
        sys.exit(130)
    command(prog_name="harfeat")

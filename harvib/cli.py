"""The `harvib` command."""

from __future__ import annotations

import sys
from typing import Any

import click

from harfeat.cache import CacheError
from harvib.commands.bench import bench
from harvib.commands.evaluate import evaluate
from harvib.commands.report import report
from harvib.commands.train import train
from harvib.errors import InputError


class _Group(click.Group):
    """Prints a user's error as one line and ends with exit code 2; an interruption ends with 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InputError, CacheError) as error:
            click.echo(f"harvib: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("harvib: interrupted; the same command resumes", err=True)
            sys.exit(130)


@click.group(cls=_Group)
@click.version_option(package_name="harfeat", message="%(prog)s %(version)s")
def main() -> None:
    """Train recurrent models on feature caches, prune them, and compact them exactly."""


main.add_command(train)
main.add_command(evaluate)
main.add_command(bench)
main.add_command(report)

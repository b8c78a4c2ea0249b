"""The `harvib` command."""

from __future__ import annotations

import os
import sys
from typing import Any

import click
from torch.distributed import is_torchelastic_launched

from harfeat.cache import CacheError, sigterm_as_ctrl_c
from harvib.commands.bench import bench
from harvib.commands.compare import compare
from harvib.commands.evaluate import evaluate
from harvib.commands.export import export
from harvib.commands.predict import predict
from harvib.commands.prune import prune
from harvib.commands.pull import pull_command
from harvib.commands.push import push_command
from harvib.commands.quantize import quantize
from harvib.commands.report import report
from harvib.commands.sweep import sweep
from harvib.commands.train import train
from harvib.devices import lacks_memory
from harvib.errors import InputError


def _who() -> str:
    """The name before a message: of torchrun's processes all but the first tell which they are."""
    rank = os.environ.get("RANK", "0") if is_torchelastic_launched() else "0"
    return "harvib" if rank == "0" else f"harvib (process {rank})"


_RESUMED = frozenset({"compare", "prune", "pull", "push", "sweep", "train"})
"""Commands that go on where they were interrupted; the others start over, and had written nothing."""


class _Group(click.Group):
    """Prints a user's error as one line and ends with exit code 2; an interruption ends with 130."""

    # What a scheduler sends before it kills: the run stops as on Ctrl-C, and resumes.
    @sigterm_as_ctrl_c()
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "harvib"
            click.echo(f"{_who()}: {error.format_message()} See `{command} --help`.", err=True)
            sys.exit(2)
        except (InputError, CacheError) as error:
            click.echo(f"{_who()}: {error}", err=True)
            sys.exit(2)
        except OSError as error:
            click.echo(f"{_who()}: {error.filename or 'writing'}: {error.strerror or error}", err=True)
            sys.exit(2)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            what = (str(error).splitlines() or [type(error).__name__])[0]
            click.echo(
                f"{_who()}: not enough memory: choose a smaller model, or a smaller --batch ({what})", err=True
            )
            sys.exit(2)
        except KeyboardInterrupt:
            end = "; the same command resumes" if ctx.invoked_subcommand in _RESUMED else ""
            click.echo(f"{_who()}: interrupted{end}", err=True)
            sys.exit(130)


@click.group("harvib", cls=_Group)
@click.version_option(package_name="harfeat", message="%(prog)s %(version)s")
def main() -> None:
    """Train recurrent models on feature caches, prune them, and compact them exactly."""


main.add_command(train)
main.add_command(evaluate)
main.add_command(predict)
main.add_command(bench)
main.add_command(export)
main.add_command(quantize)
main.add_command(report)
main.add_command(prune)
main.add_command(sweep)
main.add_command(compare)
main.add_command(push_command)
main.add_command(pull_command)

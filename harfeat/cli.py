"""The `harfeat` command."""

from __future__ import annotations

import signal
import sys
from typing import Any

import click

from harfeat.commands.datasets import datasets
from harfeat.commands.diff import diff_command
from harfeat.commands.download import download_command
from harfeat.commands.export import export_command
from harfeat.commands.extract import extract_command
from harfeat.commands.import_ import import_command
from harfeat.commands.info import info
from harfeat.commands.merge import merge_command
from harfeat.commands.pack import pack_command
from harfeat.commands.pull import pull_command
from harfeat.commands.push import push_command
from harfeat.commands.split import split_command
from harfeat.commands.status import status_command
from harfeat.commands.verify import verify_command
from harfeat.errors import InputError


class _Group(click.Group):
    """Prints a user's error as one line and ends with exit code 2; an interruption ends with 130."""

    def invoke(self, ctx: click.Context) -> Any:
        # What a scheduler sends before it kills: workers are stopped and finished clips kept, as on Ctrl-C.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "harfeat"
            click.echo(f"harfeat: {error.format_message()} See `{command} --help`.", err=True)
            sys.exit(2)
        except InputError as error:
            click.echo(f"harfeat: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one would only spoil the end
            click.echo("harfeat: interrupted; the same command resumes", err=True)
            sys.exit(130)
        finally:
            signal.signal(signal.SIGTERM, before)


@click.group("harfeat", cls=_Group)
@click.version_option(package_name="harfeat", message="%(prog)s %(version)s")
def main() -> None:
    """Turn human-action videos into feature caches that can be trusted and shared."""


main.add_command(datasets)
main.add_command(extract_command)
main.add_command(import_command)
main.add_command(info)
main.add_command(push_command)
main.add_command(pull_command)
main.add_command(pack_command)
main.add_command(merge_command)
main.add_command(download_command)
main.add_command(split_command)
main.add_command(export_command)
main.add_command(status_command)
main.add_command(verify_command)
main.add_command(diff_command)

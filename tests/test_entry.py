"""The installed commands, from their first moment on."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

INTERRUPTED = """
import sys


class Finder:
    def find_spec(self, name, *rest):
        if name == "click":
            raise KeyboardInterrupt


sys.meta_path.insert(0, Finder())
from {name}.entry import main

main()
"""


@pytest.mark.parametrize("name", ["harfeat", "harvib"])
def test_ctrl_c_while_libraries_load_is_one_line(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(name=name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{name}: interrupted\n")


@pytest.mark.parametrize("name", ["harfeat", "harvib"])
def test_the_installed_command_begins_there(name: str) -> None:
    (found,) = entry_points(group="console_scripts", name=name)
    assert found.value == f"{name}.entry:main"
    done = subprocess.run(
        [sys.executable, "-c", f"from {name}.entry import main; main()", "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.startswith(f"{name} ")

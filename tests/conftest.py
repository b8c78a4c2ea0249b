"""Fixtures that every test file may use."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

_DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure() -> None:
    """Ctrl-C is tested, and a shell that starts the suite in the background (nohup, &) has it ignored below."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; HARFEAT_TEST_DATA names another.

    Where it is absent the tests that need it are skipped; where it is present nothing may skip,
    which `pytest_sessionfinish` below enforces.
    """
    folder = _data_folder()
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set HARFEAT_TEST_DATA to run this test")
    return folder


def _data_folder() -> Path:
    return Path(os.environ.get("HARFEAT_TEST_DATA", _DEFAULT_DATA))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail the run when the data is there and a test was skipped all the same."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # a worker of pytest-xdist: the process that gave it work tells what was skipped
        return
    skipped = reporter.stats.get("skipped", [])
    if skipped and _data_folder().is_dir() and exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{len(skipped)} skipped although {_data_folder()} is present", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

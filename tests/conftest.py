"""Fixtures of several test files."""

import sys

import pytest
import torch

from sartransfer.cli import main


@pytest.fixture
def call(capsys, monkeypatch):
    """Run the command line here: (exit code, what it printed, what it said on stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sartransfer", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        found = capsys.readouterr()
        return end.value.code or 0, found.out, found.err

    return run


@pytest.fixture
def one_thread():
    """Let torch have one thread for a test: on tiny images more of them only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

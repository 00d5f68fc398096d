"""Fixtures of several test files."""

import sys

import pytest

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

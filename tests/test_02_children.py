"""Worker processes end when the process that started them is killed."""

import os
import select
import signal
import subprocess
import sys

import pytest

PARENT = """
import multiprocessing, os, sys, threading
from concurrent.futures import ProcessPoolExecutor
from sartransfer.children import end_with_parent

def work():
    threading.Event().wait()

if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(work).result()
"""


@pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="the test waits for a process that is not its child"
)
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_killed_parent(tmp_path, kill):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        worker = os.pidfd_open(int(parent.stdout.readline()))
        assert not select.select([worker], [], [], 0)[0]
        parent.send_signal(kill)
        assert parent.wait(60) == -kill
        ended, _, _ = select.select([worker], [], [], 60)
    os.close(worker)
    assert ended

"""Worker processes that end with the process that started them."""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """Have this worker process end as soon as its parent has, however that ended.

    A parent that is killed cannot tell its workers. They would train on, and write into the folders of runs that the
    next call goes on with.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()

"""Worker processes, which end with the process that started them, however that ends."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread

SPAWN = get_context("spawn")
"""A process that is forked after JAX or PyTorch has started its threads may hang."""


def workers(processes: int | None) -> ProcessPoolExecutor:
    """A pool of processes; one for each core by default."""
    return ProcessPoolExecutor(processes, mp_context=SPAWN, initializer=_end_with_parent)


def _end_with_parent() -> None:
    # The pool does not end them if its process is killed: they would work on, and then wait for more work.
    Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

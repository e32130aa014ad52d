"""PyTorch on two processes: a test for each check that they make together."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
import torch.distributed as dist
from torch.multiprocessing import get_context

from tests import two_processes

EXAMPLE = Path(__file__).parents[1] / "examples" / "torch_ddp.py"
SECONDS = 180
"""What the two may take altogether: some ten on a machine that has nothing else to do."""

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="PyTorch was built without gloo"
)


@pytest.fixture(scope="module")
def failures() -> Iterator[Mapping[tuple[str, int], str]]:
    """What went wrong in each check and process; empty if nothing did."""
    context = get_context("spawn")
    results: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux":
            patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        store = str(Path(folder) / "store")
        processes = [context.Process(target=two_processes.run, args=(rank, store, results)) for rank in (0, 1)]
        try:
            for process in processes:
                process.start()
            yield dict(_taken(results, 2 * len(two_processes.CHECKS)))
            for process in processes:
                process.join(SECONDS)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()


def _taken(results: Any, count: int) -> Iterator[tuple[tuple[str, int], str]]:
    for _ in range(count):
        try:
            name, rank, failure = results.get(timeout=SECONDS)
        except Empty:  # the tests of what is missing say so
            return
        yield (name, rank), failure


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", two_processes.CHECKS)
def test_on_two_processes(name: str, rank: int, failures: Mapping[tuple[str, int], str]) -> None:
    assert failures.get((name, rank), "the process ended, or hung, before this") == ""


def test_the_example_trains() -> None:
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        capture_output=True,
        text=True,
        env={**os.environ, **loopback},
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"step [ \d]+: loss ([\d.]+)", done.stdout)]
    assert len(losses) == 6
    assert losses[-1] < losses[0] / 100

"""Worker processes do not outlive the process that started them."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

PROGRAM = """
import os, time
from conformance.processes import workers

def work():
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    with workers(1) as pool:
        pool.submit(work).result()
"""


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_worker_ends_with_its_parent(name: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, str(script)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        try:
            assert is_running(worker)
            parent.send_signal(getattr(signal, name))
            deadline = time.monotonic() + 60
            while is_running(worker) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not is_running(worker)
        finally:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
            parent.kill()

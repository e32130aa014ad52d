"""Fresh processes, for what only the first call or the only call in a process shows."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 120.0
"""Seconds after which a process is taken to hang."""


class ChildError(RuntimeError):
    """A process that failed, with the last line of what it said."""


def run(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Any:
    """What a new interpreter with these arguments prints last, read as JSON.

    Whatever happens, Ctrl-C included, neither it nor a process that it started is left behind.
    """
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(environment or {})},
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            raise ChildError(f"took longer than {LONGEST:.0f} s") from None
        finally:
            _stop(process)
    if process.returncode:
        raise ChildError((errors.strip().splitlines() or [f"exit status {process.returncode}"])[-1])
    return json.loads(output.strip().splitlines()[-1])


def _stop(process: "subprocess.Popen[str]") -> None:
    """Kill the process and those that it started: they are a session of their own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()

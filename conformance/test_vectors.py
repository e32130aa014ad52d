"""What hides vector instructions from the libraries does hide them."""

import os
import platform
import subprocess
import sys

import pytest

from conformance.vectors import LEVELS, NOT_RUN, main, missing, variables

PYTORCH = {"avx2": ("AVX2", "DEFAULT"), "avx": ("DEFAULT",)}
ASK = """
import torch
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
print(torch.backends.cpu.get_cpu_capability(), *(n for n in __cpu_dispatch__ if __cpu_features__.get(n)))
"""


@pytest.mark.parametrize("level", PYTORCH)
def test_numpy_and_pytorch_use_no_wider_vectors_than_the_level(level: str) -> None:
    if (reason := missing(level)) is not None:
        pytest.skip(reason)
    environment = os.environ | variables(level)
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, check=True, capture_output=True, text=True)
    of_pytorch, *of_numpy = done.stdout.split()
    assert of_pytorch in PYTORCH[level]
    assert not [name for name in of_numpy if "512" in name or "V4" in name]
    assert level == "avx2" or not [name for name in of_numpy if name in ("AVX2", "FMA3", "X86_V3")]


def test_the_widest_level_changes_nothing() -> None:
    assert variables("widest") == {}


@pytest.mark.parametrize("level", LEVELS)
def test_the_command_exits_as_what_it_runs(level: str) -> None:
    status = main([level, "--", sys.executable, "-c", "raise SystemExit(7)"])
    assert status == (7 if missing(level) is None else NOT_RUN)


def test_a_level_that_the_processor_lacks_is_no_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert main(["avx2", "--", sys.executable, "-c", ""]) == NOT_RUN
    assert "did not run: riscv64 has other vectors" in capsys.readouterr().out


def test_flags_of_xla_that_are_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_some_flag=1")
    assert variables("avx2")["XLA_FLAGS"] == "--xla_some_flag=1 --xla_cpu_max_isa=AVX2"

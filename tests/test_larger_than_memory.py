"""The example with arrays that are larger than memory, on small ones: it checks its result and its memory itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "examples" / "larger_than_memory.py"

for package in ("distributed", "cubed", "zarr"):
    pytest.importorskip(package)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak memory of a process is read from /proc")


@pytest.mark.parametrize("engine", ["dask", "cubed"])
@pytest.mark.parametrize("loss", ["kl_div", "kl_div_with_logits"])
def test_the_loss_is_the_exact_one_and_no_file_is_left(loss: str, engine: str, tmp_path: Path) -> None:
    given = ["--engine", engine, "--loss", loss, "--source", "zarr", "--size", "0.05", "--rounds", "1"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "DASK_TEMPORARY_DIRECTORY": str(tmp_path / "dask")}
    run = subprocess.run(
        [sys.executable, str(PROGRAM), *given], capture_output=True, text=True, env=environment, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert "loss 3.9" in run.stdout
    assert "peak memory of" in run.stdout
    assert {path.name for path in tmp_path.iterdir()} <= {"dask"}, "files are left"

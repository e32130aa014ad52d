"""Recordings: those that are committed are sound and still true, and whatever else comes is refused with a reason."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance import record
from conformance.__main__ import main
from conformance.implementations import RECORDINGS, corpora, every_implementation, reference
from conformance.judge import Verdict
from conformance.recording import RecordingError, read_recording
from conformance.run import every_case, judge_implementation, recorded_implementations

CORPUS = record.load_corpus()
COMMITTED = sorted(RECORDINGS.glob("*.npz"))
ON_CPU = [path for path in COMMITTED if "cuda" not in path.name and "cupy" not in path.name]
SOME = RECORDINGS / "oneflow.nn.KLDivLoss-0.9.0.npz"
ENVIRONMENTS = Path(__file__).parents[1] / "build" / "environments"
ENVIRONMENT_OF = {"oneflow": "oneflow", "torch": "torch-1.10"}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_recording_is_small_and_of_this_corpus(path: Path) -> None:
    assert path.stat().st_size < 2**20
    recording = read_recording(path, *corpora())
    (corpus,) = (corpus for corpus in corpora() if all(map(recording.takes, corpus.cases)))
    assert path.name in (record.file_name(recording, corpus), record.file_name(recording, CORPUS))
    of_both = corpus.cases[0].logits is not None and recording.convention is not None
    assert path.stem.endswith("-from-logits") == of_both


def _environment(library: str) -> str:
    return ENVIRONMENT_OF.get(library, library)


@pytest.fixture(scope="module")
def recorded_now(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What records all implementations of a library in its own environment, once, and gives the folder."""

    @cache
    def recorded_now(library: str) -> Path:
        python = ENVIRONMENTS / _environment(library) / "bin" / "python"
        if not python.exists():
            pytest.skip(f"{library} has no environment here; make {_environment(library)} builds it")
        adapter = record.CORPUS.parent / "implementations" / f"{library}.py"
        output = tmp_path_factory.mktemp(library)
        both: list[str | Path] = ["--corpus", record.CORPUS, "--corpus", record.LOGITS]
        subprocess.run([python, record.__file__, adapter, *both, "--output", output], check=True, capture_output=True)
        return output

    return recorded_now


@pytest.mark.parametrize("path", ON_CPU, ids=lambda path: f"{_environment(path.name.split('.')[0])}-{path.stem}")
def test_a_committed_recording_matches_what_its_framework_gives_now(
    path: Path, recorded_now: Callable[[str], Path]
) -> None:
    committed = read_recording(path, *corpora())
    live = read_recording(recorded_now(committed.library) / path.name, *corpora())
    judgement = judge_implementation(live, every_case(), committed)
    # Another processor may round its logarithms otherwise.
    verdicts = {c.verdict for c in judgement.comparisons}
    assert verdicts <= {Verdict.AGREES, Verdict.UNSUPPORTED}
    for case in filter(committed.takes, every_case()):
        assert _kind(live.run(case)) == _kind(committed.run(case)), case.id


def _kind(outcome: record.Outcome) -> tuple[Any, ...]:
    """What an outcome is, but for its values."""
    error = (outcome.error or "").partition(":")[0]
    return error, outcome.unsupported, outcome.loss is None, tuple(outcome.gradients)


class Plain(record.Implementation):
    """The formula on NumPy alone, as an adapter would write it."""

    def version(self) -> str:
        return np.__version__

    def compute(self, case: record.Case) -> record.Outcome:
        y, x = case.target.values, case.input.values
        loss = np.exp(y) * (y - x) if case.log_target else y * (np.log(y) - x)
        if case.reduction != "none":
            raise record.UnsupportedError("no reductions")
        return record.Outcome(record.as_result(loss, loss.dtype), unsupported="no gradients")


def test_what_is_read_is_what_was_recorded(tmp_path: Path) -> None:
    plain = Plain("plain", "numpy")
    outcomes = [plain.run(case) for case in CORPUS.cases]
    path = tmp_path / "plain.npz"
    record.write_recording(path, plain, CORPUS, outcomes)
    recorded = read_recording(path, CORPUS)
    assert recorded.label == plain.label
    for case, outcome in zip(CORPUS.cases, outcomes, strict=True):
        again = recorded.run(case)
        assert _kind(again) == _kind(outcome)
        if outcome.loss is not None:
            assert again.loss is not None
            assert (again.loss.dtype, again.loss.shape) == (outcome.loss.dtype, outcome.loss.shape)
            kept = outcome.loss.values.ravel()[record.kept(outcome.loss.values.size)]
            np.testing.assert_array_equal(again.loss.values.ravel(), kept)


def test_a_case_that_was_left_out_of_a_recording_is_not_run(tmp_path: Path) -> None:
    plain, path = Plain("plain", "numpy"), tmp_path / "plain.npz"
    taken = [case for case in CORPUS.cases if case.group == "documentation"]
    left_out = record.Outcome(left_out="a sample")
    record.write_recording(path, plain, CORPUS, [plain.run(c) if c in taken else left_out for c in CORPUS.cases])
    for everything in (False, True):
        judgement = judge_implementation(read_recording(path, CORPUS), CORPUS.cases, everything=everything)
        not_run = {c.case for c in judgement.comparisons if c.verdict == Verdict.NOT_RUN}
        assert not_run == {case.id for case in CORPUS.cases} - {case.id for case in taken}
        assert {c.detail for c in judgement.comparisons if c.case in not_run} == {"a sample"}


def test_the_recorder_is_one_file_that_needs_numpy_alone(tmp_path: Path) -> None:
    recorder = tmp_path / "record.py"
    recorder.write_bytes(Path(record.__file__).read_bytes())
    (tmp_path / "adapter.py").write_text(
        "import numpy\n"
        "from conformance.record import Implementation, Outcome, as_result\n"
        "class Zero(Implementation):\n"
        "    def version(self): return '1.0'\n"
        "    def left_out(self, case): return None if case.group == 'documentation' else 'a sample'\n"
        "    def compute(self, case):\n"
        "        loss = numpy.zeros(numpy.broadcast(case.input.values, case.target.values).shape, 'float32')\n"
        "        return Outcome(as_result(loss, 'float32'), unsupported='none')\n"
        "def implementations(): yield from (Zero('zero', 'zero'), Zero('one', 'one'))\n"
    )
    for package in Path(np.__file__).parents[1].glob("numpy*"):
        (tmp_path / "site").mkdir(exist_ok=True)
        (tmp_path / "site" / package.name).symlink_to(package)
    command = [sys.executable, "-S", str(recorder), "adapter.py", "--corpus", str(record.CORPUS), "--output", "out"]
    command += ["--implementation", "zer", "--sample"]
    environment = {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    recorded = read_recording(tmp_path / "out" / "zero-1.0.npz", CORPUS)
    assert recorded.version() == "1.0"
    assert {case.group for case in CORPUS.cases if recorded.run(case).left_out is None} == {"documentation"}


@pytest.mark.parametrize("shape", sorted({case.input.values.shape for case in CORPUS.cases if case.input.is_array}))
def test_what_is_kept_is_from_every_column_and_has_both_ends(shape: tuple[int, ...]) -> None:
    size = record.size_of(shape)
    indices = record.kept(size)
    assert len(set(indices)) == len(indices)
    assert min(size, record.KEPT - 1) <= len(indices) <= record.KEPT
    if size:
        assert {0, size - 1} <= set(indices)
        columns = shape[-1] if shape else 1
        assert len(set(indices % columns)) >= min(columns, len(indices) - 1)


def test_recordings_of_one_implementation_are_told_apart_by_their_files(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.npz", "two.npz", "a/three.npz", "b/three.npz")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(SOME.read_bytes())
    labels = [implementation.label for implementation in recorded_implementations(files)]
    shown = ["one.npz", "two.npz", str(files[2]), str(files[3])]
    assert labels == [f"oneflow.nn.KLDivLoss 0.9.0 ({file})" for file in shown]


def test_a_recording_that_is_given_twice_is_refused() -> None:
    with pytest.raises(RecordingError, match="is given twice"):
        recorded_implementations([SOME, SOME])


def test_a_committed_recording_is_labelled_without_its_file() -> None:
    labels = [implementation.label for implementation in every_implementation()]
    assert read_recording(SOME, CORPUS).label == "oneflow.nn.KLDivLoss 0.9.0"
    assert "oneflow.nn.KLDivLoss 0.9.0" in labels
    assert [label for label in labels if ".npz" in label] == []


@pytest.mark.skipif(find_spec("dpnp") is not None, reason="dpnp is installed, so that it can be the reference")
def test_what_cannot_run_here_is_no_reference(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["judge", str(SOME), "--reference", "kldiv_xp dpnp [oneflow]"])
    assert "cannot be the reference here: dpnp is not installed" in capsys.readouterr().err


def test_a_recording_is_judged_against_any_reference(capsys: pytest.CaptureFixture[str]) -> None:
    for label in (reference().label, "kldiv_xp numpy [oneflow]"):
        assert main(["judge", str(SOME), "-g", "edge", "--reference", label, "--processes", "1"]) == 0
        assert "0 differ" in capsys.readouterr().out

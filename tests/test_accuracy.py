"""The accuracy table: its exact values are exact, its statistics mean what they say, and it writes what it promises."""

import json
import math
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest

from benchmarks.accuracy import __main__ as accuracy
from benchmarks.accuracy.inputs import DIFFERENCES, distributions, exact_loss, rounded
from benchmarks.accuracy.losses import PYTORCH, Implementation, Loss, implementations
from benchmarks.accuracy.measure import Row
from tests import exact

SETTING = ("float32", 1000, "far")

longer_than_float64 = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="this machine has no longer type than float64"
)


def by_mpmath(x: Any, y: Any, *, log_target: bool) -> Any:
    return mpmath.fsum(exact.losses(x, y, log_target=log_target)) / len(x)


@longer_than_float64
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_exact_loss_is_that_of_mpmath_however_close_the_distributions(dtype: str, log_target: bool) -> None:
    for _, log_x, log_y in distributions(1000, 0):
        x, y = (rounded(values, dtype) for values in (log_x, log_y if log_target else np.exp(log_y)))
        wanted = by_mpmath(x, y, log_target=log_target)
        assert abs(exact_loss(x, y, log_target=log_target) - wanted) <= 1e-9 * abs(wanted)


@longer_than_float64
@pytest.mark.parametrize("log_target", [False, True])
def test_exact_loss_of_float64_errs_a_hundredth_of_the_rounding_of_its_terms(log_target: bool) -> None:
    for _, log_x, log_y in distributions(1000, 0):
        x, y = log_x, log_y if log_target else np.exp(log_y)
        wanted = by_mpmath(x, y, log_target=log_target)
        rounding = 2.0**-53 * np.linalg.norm(np.exp(log_y) * log_y)
        assert abs(exact_loss(x, y, log_target=log_target) - wanted) <= max(1e-15 * abs(wanted), 1e-2 * rounding)


def test_exact_loss_spans_blocks_and_counts_a_zero_target_as_zero() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(-5, 1, (70, 1000)).astype(np.float32), random.random((70, 1000)).astype(np.float32)
    y[::2, ::3] = 0
    assert exact_loss(x, y) == pytest.approx(float(by_mpmath(x, y, log_target=False)), rel=1e-15)


def test_distributions_are_reproducible_normalised_and_as_different_as_stated() -> None:
    first, again = (list(distributions(20_000, 3)) for _ in range(2))
    assert [difference for difference, *_ in first] == list(DIFFERENCES)
    for (difference, x, y), (_, same_x, same_y) in zip(first, again, strict=True):
        np.testing.assert_array_equal(x, same_x)
        np.testing.assert_array_equal(y, same_y)
        np.testing.assert_allclose([np.exp(x).sum(axis=1), np.exp(y).sum(axis=1)], 1)
        if difference != "far":
            assert np.expm1(x - y).std() == pytest.approx(float(difference), rel=0.05)


def test_bfloat16_numbers_have_eight_bits_and_are_the_nearest() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    result = rounded(values, "bfloat16")
    mantissas = np.frexp(result)[0] * 2**8
    np.testing.assert_array_equal(mantissas, np.round(mantissas))
    assert np.all(np.abs(result - values) <= 2.0**-8 * np.exp2(np.frexp(values)[1] - 1) * (1 + 1e-6))


def test_error_is_of_all_draws_together_and_is_held_against_pytorch() -> None:
    row = Row(*SETTING, "kldiv_xp on NumPy", losses=[1.0, 7.0], exact=[0.0, 5.0], reference=[0.5, 5.0])
    assert row.error == pytest.approx(math.sqrt(1 + 4) / 5)
    assert row.ratio == pytest.approx(math.sqrt(1 + 4) / 0.5)


@pytest.mark.parametrize(
    ("ours", "theirs", "ratio"),
    [
        (1.0, 1.0, 1),
        (2.0, 1.0, math.inf),
        (1.0, 2.0, 0),
        (math.nan, 2.0, math.inf),
        (2.0, math.nan, 0),
        (math.nan, math.inf, 1),
    ],
)
def test_no_error_and_no_number_can_be_held_against_each_other(ours: float, theirs: float, ratio: float) -> None:
    assert Row(*SETTING, "kldiv_xp on NumPy", [ours], [1.0], [theirs]).ratio == ratio


def test_a_loss_that_is_exactly_zero_has_no_error_or_an_infinite_one() -> None:
    assert Row(*SETTING, PYTORCH, [0.0], [0.0], [0.0]).error == 0
    assert Row(*SETTING, PYTORCH, [1e-9], [0.0], [1e-9]).error == math.inf


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer draws of fewer elements, and losses of which it is known how good they are."""

    def times(factor: float) -> Any:
        def prepare(_dtype: str, log_target: bool) -> Loss:
            return lambda x, y: exact_loss(x, y, log_target=log_target) * factor

        return prepare

    def failing(_dtype: str, _log_target: bool) -> Loss:
        def loss(_x: Any, _y: Any) -> float:
            raise ArithmeticError("of no use")

        return loss

    def missing(_dtype: str, _log_target: bool) -> Loss:
        import no_such_library  # type: ignore[import-not-found]  # noqa: F401

        raise AssertionError

    known = [
        Implementation(PYTORCH, "float32", times(1.01)),
        Implementation("kldiv_xp, good", "float32", times(1.001)),
        Implementation("kldiv_xp, bad", "float32", times(0.9)),
        Implementation("kldiv_xp, failing", "float32", failing),
        Implementation("another", "float32", missing),
        Implementation("narrow", "float16", times(1)),
    ]
    monkeypatch.setattr("benchmarks.accuracy.measure.implementations", lambda: known)
    monkeypatch.setattr(accuracy, "QUICK_DRAWS", {1000: 2})
    monkeypatch.setattr(accuracy, "QUICK_SUBJECTS", {"float32": 1000, "float32, log_target": 10})


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--json", "directory"], "cannot write directory: it is a directory"),
        (["--json", "new/a.svg", "--plot", "new/a.svg"], "also writes new/a.svg"),
        (["--plot", "plot.doc"], "plot.doc ends with none of"),
        (["--plot", "plot"], "plot ends with none of"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_measured(
    given: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("directory").mkdir()
    monkeypatch.setattr(accuracy, "measure", lambda *_: pytest.fail("it measures"))
    with pytest.raises(SystemExit) as refused:
        accuracy.main(given)
    assert refused.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.usefixtures("few")
def test_command_prints_the_verdict_and_writes_json_and_a_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_path, plot_path = tmp_path / "new" / "a.json", tmp_path / "a.svg"
    assert accuracy.main(["--quick", "--json", str(json_path), "--plot", str(plot_path)]) == 0
    output = capsys.readouterr().out
    assert "Worse than twice PyTorch's error: 7 of 14 rows of ours" in output
    assert "Better than PyTorch: 7 of 14 rows of ours" in output
    assert "kldiv_xp, bad, float32, 1,000 elements, far: 1.0e-01, 10.0 times PyTorch's" in output
    assert "not run: another, float32: no_such_library is not installed" in output
    assert "not run: narrow, float32: TypeError: no float32" in output
    assert "not run: kldiv_xp, failing, float32, from 1,000 elements on: ArithmeticError: of no use" in output
    contents = json.loads(json_path.read_text())
    assert len(contents["rows"]) == 3 * len(DIFFERENCES)
    assert contents["rows"][1] | {"losses": 0, "exact": 0, "reference": 0} == {
        "implementation": "kldiv_xp, good",
        "subject": "float32",
        "elements": 1000,
        "difference": "far",
        "error": pytest.approx(0.001),
        "ratio": pytest.approx(0.1),
        "losses": 0,
        "exact": 0,
        "reference": 0,
    }
    assert len(contents["rows"][1]["losses"]) == len(contents["rows"][1]["exact"]) == 2
    assert plot_path.read_text().startswith("<?xml")


@pytest.mark.parametrize("implementation", list(implementations()), ids=lambda one: str(one.name))
def test_every_implementation_computes_this_loss(implementation: Implementation) -> None:
    if "compiled" in implementation.name:
        pytest.skip("compiling takes seconds")
    for log_target in (False, True):
        _, log_x, log_y = next(distributions(1000, 0))
        x, y = (rounded(values, "float32") for values in (log_x, log_y if log_target else np.exp(log_y)))
        try:
            value = implementation.prepare("float32", log_target)(x, y)
        except ImportError as error:
            pytest.skip(str(error))
        assert value == pytest.approx(exact_loss(x, y, log_target=log_target), rel=1e-5)

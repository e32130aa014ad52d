"""What the examples promise, on short runs."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from examples import export_onnx, replacing_trl
from examples.distillation import __main__ as distillation
from examples.distillation import comparison, jax_student, numpy_student, torch_student
from examples.distillation.comparison import Gain
from examples.distillation.problem import Problem, Regime, Weights, pose
from examples.moving_from_torch import __main__ as moving
from examples.moving_from_torch import after, before

SHORT = Regime(epochs=2, teacher_width=64)
SHORT_RUN = ["--epochs", "2", "--teacher-width", "64", "--seeds", "2", "--processes", "1"]

Train = Callable[[Problem, Iterable[list[int]]], tuple[list[float], Weights]]


@pytest.fixture(scope="module")
def problem() -> Problem:
    return pose(SHORT, seed=0)


def test_the_command_trains_all_three_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "new" / "plot.png"
    assert distillation.main([*SHORT_RUN, "--output", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert "coincide to 1e-10 at every step" in printed
    assert "plot.png" in printed
    with Image.open(plot) as image:
        assert image.width > 1000


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("directory.png", "cannot write directory.png: it is a directory"),
        ("file/plot.png", "cannot write file/plot.png: file is not a directory"),
        ("plot.doc", "plot.doc ends with none of"),
    ],
)
def test_a_plot_that_cannot_be_written_is_refused_before_training(
    output: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("directory.png").mkdir()
    Path("file").touch()
    monkeypatch.setattr(distillation, "pose", lambda *_, **__: pytest.fail("it trains"))
    with pytest.raises(SystemExit) as refused:
        distillation.main(["--output", output])
    assert refused.value.code == 2
    assert reason in capsys.readouterr().err


def test_a_model_that_cannot_be_written_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["export_onnx.py", str(tmp_path)])
    with pytest.raises(SystemExit) as refused:
        export_onnx.main()
    assert refused.value.code == 2
    assert f"error: cannot write {tmp_path}: Is a directory" in capsys.readouterr().err


def with_another_temperature(train: Train) -> Train:
    def changed(problem: Problem, batches: Iterable[list[int]]) -> tuple[list[float], Weights]:
        return train(replace(problem, regime=replace(problem.regime, temperature=4.000001)), batches)

    return changed


def with_one_loss_nan(train: Train) -> Train:
    def changed(problem: Problem, batches: Iterable[list[int]]) -> tuple[list[float], Weights]:
        losses, weights = train(problem, batches)
        return [*losses[:-1], float("nan")], weights

    return changed


@pytest.mark.parametrize("change", [with_another_temperature, with_one_loss_nan])
@pytest.mark.parametrize("student", [torch_student, jax_student])
def test_the_command_fails_if_one_framework_parts(
    student: object, change: Callable[[Train], Train], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "train", change(student.train))  # type: ignore[attr-defined]
    assert distillation.main([*SHORT_RUN, "--output", str(tmp_path / "plot.png")]) == 1


@pytest.mark.parametrize("train", [torch_student.train, jax_student.train])
def test_losses_and_weights_are_those_of_numpy(problem: Problem, train: Train) -> None:
    losses, weights = train(problem, problem.batches)
    expected, expected_weights = numpy_student.train(problem, problem.batches)
    assert len(losses) == len(problem.batches)
    np.testing.assert_allclose(losses, expected, rtol=distillation.BOUND, atol=0)
    for name, ours, theirs in zip(Weights._fields, weights, expected_weights, strict=True):
        assert ours.dtype == np.float64, name
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=distillation.BOUND * np.abs(theirs).max(), err_msg=name)


def test_the_gradient_by_hand_is_that_of_differences(problem: Problem) -> None:
    rng = np.random.default_rng(0)
    logits, direction = rng.standard_normal((2, 32, 10))
    given = (problem.teacher[:32], problem.labels[:32], SHORT)
    _, gradient = numpy_student.loss_and_gradient(logits, *given)
    h = 1e-5
    ahead, behind = (numpy_student.loss_and_gradient(logits + s * h * direction, *given)[0] for s in (1, -1))
    # A central difference errs by h^2 times a third derivative, and by eps / h times the loss.
    np.testing.assert_allclose((ahead - behind) / (2 * h), np.sum(gradient * direction), rtol=1e-8)


def test_held_out_images_are_not_trained_on(problem: Problem) -> None:
    seen = {image.tobytes() for image in problem.images}
    assert len(problem.images) + len(problem.held_out_images) == 1797
    assert not any(image.tobytes() in seen for image in problem.held_out_images)


def test_every_epoch_sees_an_image_once(problem: Problem) -> None:
    steps = len(problem.images) // SHORT.batch_size
    for epoch in range(SHORT.epochs):
        seen = np.ravel(problem.batches[epoch * steps : (epoch + 1) * steps])
        assert len(np.unique(seen)) == len(seen) == len(problem.images)


def test_without_a_teacher_only_the_labels_count(problem: Problem) -> None:
    alone = replace(problem, regime=replace(SHORT, teacher_weight=0.0))
    other = replace(alone, teacher=alone.teacher[::-1])
    assert numpy_student.train(alone, alone.batches)[0] == numpy_student.train(other, other.batches)[0]


@pytest.mark.parametrize(
    ("differences", "p_value", "verdict"),
    [
        ([0.1] * 10, 2 / 2**10, "the teacher helps"),
        ([-0.1] * 10, 2 / 2**10, "the teacher hurts"),
        ([0.1] * 9 + [-5.0], 22 / 2**10, "the teacher helps"),
        ([0.1] * 8 + [-0.1] * 2, 112 / 2**10, "no difference can be told"),
        ([0.1] * 7 + [-0.1] * 2 + [0.0], 92 / 2**9, "no difference can be told"),
        ([0.0] * 10, 1.0, "no difference can be told"),
    ],
)
def test_the_verdict_is_that_of_the_sign_test(differences: list[float], p_value: float, verdict: str) -> None:
    gain = Gain(np.asarray(differences))
    assert gain.p_value == pytest.approx(p_value)
    assert gain.verdict == verdict


def test_less_accurate_and_less_likely_are_losses() -> None:
    good, bad = comparison.Trained(accuracy=0.9, nll=0.1), comparison.Trained(accuracy=0.8, nll=0.3)
    accuracy, nll = comparison.gains([comparison.Seed(good, bad, bad)] * 2, lambda s: s.labels)
    assert (accuracy.better, nll.better) == (2, 2)
    assert (accuracy.mean, nll.mean) == pytest.approx((0.1, 0.2))


def test_one_line_of_the_script_changes() -> None:
    changed = [line for line in moving.line_that_changes().splitlines()[2:] if line[0] in "+-"]
    assert changed == ["-from torch.nn import KLDivLoss", "+from kldiv_xp.torch import KLDivLoss"]


def test_the_line_changes_the_gradient_at_zero_targets_and_nothing_else() -> None:
    theirs, ours = before.train(epochs=20), after.train(epochs=20)
    zero = theirs.target == 0
    assert zero.sum() == 7 * len(zero)
    assert ours.first_loss == pytest.approx(theirs.first_loss, rel=4 * torch.finfo(torch.float32).eps)
    torch.testing.assert_close(ours.by_target[~zero], theirs.by_target[~zero])
    assert theirs.by_target[zero].isnan().all()
    assert (ours.by_target[zero] == 0).all()
    assert theirs.by_logits[~zero].isnan().all()
    assert ours.by_logits.isfinite().all()
    assert theirs.found < 0.2 < ours.found


def test_the_command_shows_the_line_and_both_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert moving.main(["--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "+from kldiv_xp.torch import KLDivLoss" in printed
    assert "NaN, 12,579 of 12,579" in printed
    assert "0, all 12,579" in printed


def test_one_call_gives_the_losses_and_gradients_of_trl(capsys: pytest.CaptureFixture[str]) -> None:
    assert replacing_trl.main() == 0
    printed = capsys.readouterr().out
    assert "Losses and gradients agree to 1e-10" in printed
    assert len([line for line in printed.splitlines() if line.startswith("│")]) == 15


@pytest.mark.parametrize("factor", [1.000001, float("nan")])
def test_the_command_fails_if_trl_gives_something_else(
    factor: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def changed(
        student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, beta: float, temperature: float
    ) -> torch.Tensor:
        return replacing_trl.composition(student, teacher, labels, beta, temperature * factor)

    trainer = SimpleNamespace(generalized_jsd_loss=changed)
    monkeypatch.setitem(sys.modules, "trl.experimental.gkd", SimpleNamespace(GKDTrainer=trainer))
    assert replacing_trl.main() == 1
    printed = capsys.readouterr().out
    assert "js_div_with_logits and TRL" in printed
    assert "do not agree" in printed


def test_examples_do_not_change_jax_for_others(problem: Problem) -> None:
    jax_student.train(problem, problem.batches[:1])
    assert sys.modules["jax"].numpy.ones(1).dtype == np.float32

"""The judgement of ``python -m conformance``, as tests: one for each implementation and group of cases."""

from collections.abc import Mapping

import pytest

from conformance.implementations import every_implementation, reference
from conformance.judge import Verdict
from conformance.record import load_corpus
from conformance.run import Judgement, Question, judge_all, unused_entries

LABELS = [implementation.label for implementation in every_implementation()]
GROUPS = load_corpus().groups


@pytest.fixture(scope="module")
def judgements(request: pytest.FixtureRequest) -> Mapping[str, Judgement]:
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    judged = dict.fromkeys(LABELS, 0)
    total = len(load_corpus().cases)
    question = Question(tuple(LABELS), GROUPS, reference().label)

    def progress(label: str, count: int) -> None:
        judged[label] += count
        if judged[label] == total and reporter is not None:
            reporter.write_line(f"done: {label}")

    return {judgement.label: judgement for judgement in judge_all(question, progress=progress)}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("label", LABELS)
def test_every_difference_is_one_that_the_ledger_states(
    label: str, group: str, judgements: Mapping[str, Judgement]
) -> None:
    judgement = judgements[label]
    if judgement.not_run is not None:
        pytest.skip(f"not run: {judgement.not_run}")
    of_group = [comparison for comparison in judgement.comparisons if comparison.group == group]
    if all(comparison.verdict == Verdict.NOT_RUN for comparison in of_group):
        pytest.skip(f"not run: {of_group[0].detail}")
    assert [c for c in of_group if c.verdict == Verdict.DIFFERS] == []


@pytest.mark.parametrize("label", [label for label in LABELS if label.endswith("[torch]")])
def test_the_torch_convention_has_the_loss_of_the_reference(label: str, judgements: Mapping[str, Judgement]) -> None:
    judgement = judgements[label]
    if judgement.not_run is not None:
        pytest.skip(f"not run: {judgement.not_run}")
    deviating = {
        entry for c in judgement.comparisons if c.quantity == "loss" and c.group != "refused" for entry in c.ledger
    }
    # PyTorch's roundings, and what XLA does on the CPU: neither is of the convention's making.
    elsewhere = {"rounded-step-by-step", "sum-overflows-before-it-is-divided"}
    if "jax" in label:
        elsewhere |= {"subnormals-are-zero", "contracted-product"}
    assert deviating <= elsewhere


def test_every_ledger_entry_explains_something(judgements: Mapping[str, Judgement]) -> None:
    assert unused_entries(judgements.values()) == []

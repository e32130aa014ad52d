"""The same student with and without its teacher, over several seeds, and whether the teacher helps."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from multiprocessing import get_context

import numpy as np
from scipy import stats
from threadpoolctl import threadpool_limits

from examples.distillation import numpy_student
from examples.distillation.problem import Array, Problem, Regime, held_out_accuracy, held_out_nll, pose

LONGER = 4


@dataclass(frozen=True)
class Trained:
    """A student of one seed, on the images that it has not seen."""

    accuracy: float
    nll: float


@dataclass(frozen=True)
class Seed:
    """The students of one seed: the same split, initial weights and batches."""

    teacher: Trained
    labels: Trained
    labels_for_longer: Trained  # with LONGER times the steps, lest the teacher only make training faster


def compare(regime: Regime, seeds: int, processes: int) -> Iterator[Seed]:
    """Students of each seed in turn, as they are ready."""
    if processes == 1:
        yield from map(_train_all, repeat(regime), range(seeds))
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_train_all, repeat(regime), range(seeds))


def _train_all(regime: Regime, seed: int) -> Seed:
    with threadpool_limits(1):  # in a process of its own, as in the one that started it
        problem = pose(regime, seed)
        alone = replace(problem, regime=replace(regime, teacher_weight=0.0))
        return Seed(
            _trained(problem, problem.batches),
            _trained(alone, alone.batches),
            _trained(alone, alone.batches * LONGER),
        )


def _trained(problem: Problem, batches: list[list[int]]) -> Trained:
    _, weights = numpy_student.train(problem, batches)
    return Trained(held_out_accuracy(problem, weights), held_out_nll(problem, weights))


@dataclass(frozen=True)
class Gain:
    """What the teacher gains over a student without one: paired differences, one a seed; more is better."""

    differences: Array

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(self.differences.mean())

    @property
    def margin(self) -> float:
        """Half the width of the 95% confidence interval of the mean, after Student."""
        count = len(self.differences)
        return float(stats.t.ppf(0.975, count - 1) * self.differences.std(ddof=1) / np.sqrt(count))

    @property
    def better(self) -> int:
        """Number of seeds on which the teacher helps."""
        return int(np.sum(self.differences > 0))

    @property
    def worse(self) -> int:
        """Number of seeds on which the teacher hurts."""
        return int(np.sum(self.differences < 0))

    @property
    def p_value(self) -> float:
        """Two-sided sign test: how often chance alone gives a split as uneven as this."""
        decided = self.better + self.worse
        return float(stats.binomtest(self.better, decided).pvalue) if decided else 1.0

    @property
    def verdict(self) -> str:
        """Whether the teacher helps, at the usual level of 5%."""
        if self.p_value >= 0.05:
            return "no difference can be told"
        return "the teacher helps" if self.better > self.worse else "the teacher hurts"


def gains(seeds: list[Seed], without: Callable[[Seed], Trained]) -> tuple[Gain, Gain]:
    """Gain in accuracy, and in negative log-likelihood, over the students that ``without`` picks."""
    with_teacher, alone = [s.teacher for s in seeds], [without(s) for s in seeds]
    pairs = list(zip(with_teacher, alone, strict=True))
    return (
        Gain(np.asarray([w.accuracy - a.accuracy for w, a in pairs])),
        Gain(np.asarray([a.nll - w.nll for w, a in pairs])),
    )

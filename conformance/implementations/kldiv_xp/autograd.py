"""``kldiv_xp`` on HIPS Autograd, which differentiates NumPy."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from conformance.implementations.kldiv_xp import CONVENTIONS, loss_of
from conformance.implementations.kldiv_xp.closed_form import ClosedForm
from conformance.record import LAYOUTS, Case, Implementation


class KLDivXP(ClosedForm):
    """Arrays in Autograd's boxes."""

    gradients_by = "autodiff"
    needs = ("autograd",)
    layouts = LAYOUTS
    calls = ("in a graph", "backward twice")

    def __init__(self, convention: str) -> None:
        super().__init__("kldiv_xp autograd", "autograd", convention)

    def namespace(self) -> Any:
        """NumPy's namespace."""
        return np

    def evaluate(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss, and its gradients by ``autograd.make_vjp``."""
        import autograd
        import autograd.numpy as anp

        loss = loss_of(case, self.convention, self.given)
        arguments = {"input": input, "target": target}
        if not all(isinstance(argument, np.ndarray) for argument in arguments.values()):
            return loss(input, target), {}
        wanted = case.gradients or tuple(arguments)  # so that there is a box in any case
        in_graph = case.call == "in a graph" and cotangent is not None

        def of_wanted(arrays: Any) -> Any:
            value = loss(**arguments | {name: arrays[at] * 1 for at, name in enumerate(wanted)})
            return anp.sum(value * cotangent) if in_graph else value

        pullback, value = autograd.make_vjp(of_wanted)(tuple(arguments[name] for name in wanted))
        weight = np.ones_like(value) if cotangent is None or in_graph else cotangent
        if case.call == "backward twice":
            pullback(weight)
        gradients = dict(zip(wanted, pullback(weight), strict=True))
        value = loss(input, target) if in_graph else value
        return value, {name: gradients[name] for name in case.gradients}


def implementations() -> Iterator[Implementation]:
    """Arrays in boxes."""
    for convention in CONVENTIONS:
        yield KLDivXP(convention)

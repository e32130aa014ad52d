"""What every test shares: the array libraries it runs on, and how many examples Hypothesis makes."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from zlib import crc32

import pytest
from array_api_extra.testing import lazy_xp_function, patch_lazy_xp_functions
from hypothesis import HealthCheck, settings

import conformance.implementations.kldiv_xp.jax_sharded  # noqa: F401 -- has the CPU pass for eight devices in time
from kldiv_xp import kl_div, kl_div_value_and_grad
from tests import backends

# Under JAX these run jitted, with options static and arrays traced; under Dask a forced value raises.
lazy_xp_function(kl_div)
lazy_xp_function(kl_div_value_and_grad)

# The `xp` fixture only names a library, so that examples may share one.
settings.register_profile(
    "default", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# At least 20,000 examples in all: 11 properties on 5 libraries make 55 tests, of 400 examples each. The summary
# at the end of the run says how many it was.
settings.register_profile("long", settings.get_profile("default"), max_examples=400)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

_examples = pytest.StashKey[int]()

# Dask computes in threads of its own, after the loss has returned, and warns there as it does for its own functions.
_LATE_WARNINGS = [
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
]


@pytest.fixture(
    params=[pytest.param(name, marks=_LATE_WARNINGS if name == "dask.array" else ()) for name in backends.NAMES]
)
def xp(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each array library in turn, in its least forgiving mode."""
    namespace = backends.load(request.param)
    if isinstance(namespace, str):
        pytest.skip(namespace)
    with ExitStack() as stack:
        if request.param == "array_api_strict":
            stack.enter_context(
                namespace.ArrayAPIStrictFlags(
                    api_version=max(namespace._flags.supported_versions),
                    boolean_indexing=False,
                    data_dependent_shapes=False,
                )
            )
        if request.param == "jax.numpy":
            import jax

            stack.enter_context(jax.enable_x64(True))  # else float64 becomes float32
        stack.enter_context(patch_lazy_xp_functions(request, xp=namespace))
        yield namespace


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_examples] = 0


COMPILED = ("jax.numpy", "dask.array")
"""Libraries on which each test compiles, or schedules."""
MANY, ONE_IN = 50, 4


@pytest.hookimpl(tryfirst=True)  # before the tests are selected by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _take_a_sample_of_many(items)
    # What @given calls for each example, and lets others replace:
    # https://hypothesis.readthedocs.io/en/latest/extras.html#custom-function-execution
    tests = {id(test): test for item in items if (test := getattr(getattr(item, "obj", None), "hypothesis", None))}
    for test in tests.values():
        test.inner_test = _counted(test.inner_test, config)


def _take_a_sample_of_many(items: list[pytest.Item]) -> None:
    """Of many cases of one test on a library that compiles, leave all but one in four to ``make test-long``."""
    cases: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        xp = getattr(getattr(item, "callspec", None), "params", {}).get("xp")
        if xp in COMPILED:
            cases.setdefault((item.nodeid.partition("[")[0], xp), []).append(item)
    for of_one in cases.values():
        if len(of_one) > MANY:
            for item in of_one:
                if crc32(item.nodeid.encode()) % ONE_IN:
                    item.add_marker(pytest.mark.long)


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)  # there is one where pytest-xdist runs several processes
    if output is not None:
        output["examples"] = session.config.stash[_examples]


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[_examples] += getattr(node, "workeroutput", {}).get("examples", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.write_line(f"Hypothesis: {config.stash[_examples]} examples passed")


def _counted(test: Callable[..., None], config: pytest.Config) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        test(*args, **kwargs)
        config.stash[_examples] += 1

    return run

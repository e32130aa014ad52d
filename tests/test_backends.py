"""Which library an array belongs to: found once for each type, by any number of threads."""

import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

import array_api_strict
import numpy as np
import pytest
import torch

from kldiv_xp import backends, kl_div
from kldiv_xp.backends._standard import Backend


def classes(base: type[Backend] = Backend) -> Iterator[type[Backend]]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith("kldiv_xp."):
            yield kind
            yield from classes(kind)


def test_the_base_class_says_which_class_overrides_which_method() -> None:
    backends._libraries()  # which imports them
    rows = dict(re.findall(r"^    ``(\w+)`` +(\S.*)$", str(Backend.__doc__), re.MULTILINE))
    overridden: dict[str, set[str]] = {}
    for kind in set(classes()):
        for name in vars(kind):
            if name in vars(Backend) and not name.startswith("_"):
                overridden.setdefault(name, set()).add(kind.__name__)
    names = {kind.__name__ for kind in classes()}
    assert {name: set(re.findall(r"\w+", text.partition(":")[0])) & names for name, text in rows.items()} == overridden


def test_arrays_of_a_library_without_its_own_file_are_computed_by_the_standard_alone() -> None:
    class Mine(array_api_strict._array_object.Array):
        """Array that no backend owns."""

    device = array_api_strict.Device("CPU_DEVICE")
    x, y = (Mine._new(values, device) for values in (np.log([[0.25, 0.75]]), np.asarray([[0.5, 0.5]])))
    backend = backends.find(x, y)
    assert type(backend) is Backend
    assert not backend.owns(Mine)
    loss: Any = kl_div(x, y, "sum")
    np.testing.assert_allclose(float(loss), 0.5 * np.log(4 / 3), rtol=1e-15)


def test_types_of_one_library_share_a_backend_whichever_thread_finds_them_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(30):
            monkeypatch.setattr(backends, "_found", {})
            monkeypatch.setattr(backends, "_made", {})
            x = torch.zeros(2, 3)
            arrays: list[Any] = [x, torch.nn.Parameter(x), np.zeros((2, 3)), np.float64(0)] * 2
            ready = threading.Barrier(len(arrays))
            errors: list[Exception] = []

            def call(array: Any, ready: threading.Barrier = ready, errors: list[Exception] = errors) -> None:
                ready.wait()
                try:
                    kl_div(array, array)
                except Exception as error:
                    errors.append(error)

            threads = [threading.Thread(target=call, args=(array,)) for array in arrays]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert errors == []
            kl_div(x, torch.nn.Parameter(x))
            assert len({id(backend) for backend in backends._found.values()}) == 2
    finally:
        sys.setswitchinterval(switch)

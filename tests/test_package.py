"""The package as a whole: what it imports, exports and ships."""

import importlib.resources
import inspect
import itertools
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import kldiv_xp
import kldiv_xp.torch

ROOT = Path(__file__).parents[1]
NEED_A_DEVICE = {"cupy-cuda12x", "cupy-cuda13x", "dpnp"}
ARRAY_LIBRARIES = ("numpy", "torch", "jax", "cupy", "dask", "array_api_strict", "ml_dtypes")


def imported_by(program: str) -> set[str]:
    """The array libraries that a program has imported when it ends."""
    report = f"import sys, json; print(json.dumps([n for n in {ARRAY_LIBRARIES!r} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", f"{program}\n{report}"], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("program", ["import kldiv_xp", "from kldiv_xp import *", "from kldiv_xp import KLDivLoss"])
def test_importing_it_imports_no_array_library(program: str) -> None:
    assert imported_by(program) == set()


def test_making_a_loss_imports_no_array_library() -> None:
    assert imported_by("from kldiv_xp import KLDivLoss; hash(KLDivLoss('sum', True, convention='limit'))") == set()


def test_refusing_a_list_imports_no_array_library() -> None:
    assert (
        imported_by(
            "import kldiv_xp\ntry: kldiv_xp.kl_div([1.0], [1.0])\nexcept TypeError: pass\nelse: raise SystemExit(1)"
        )
        == set()
    )


@pytest.mark.parametrize(
    ("library", "make"),
    [
        ("numpy", "import numpy as xp; x = xp.ones(2)"),
        ("torch", "import torch as xp; x = xp.ones(2)"),
        ("jax", "import jax.numpy as xp; x = xp.ones(2)"),
        ("array_api_strict", "import array_api_strict as xp; x = xp.ones(2)"),
    ],
)
def test_computing_imports_no_other_library_than_that_of_the_arrays(library: str, make: str) -> None:
    pytest.importorskip(library)
    alone = imported_by(make)
    assert library in alone
    calls = "import kldiv_xp; kldiv_xp.kl_div(x, x); kldiv_xp.kl_div_value_and_grad(x, x, 'none', cotangent=x)"
    assert imported_by(f"{make}; {calls}") == alone


@pytest.mark.parametrize("module", [kldiv_xp, kldiv_xp.torch], ids=lambda module: module.__name__)
def test_every_public_name_is_listed_and_documented(module: Any) -> None:
    defined = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("kldiv_xp")
    }
    listed = set(module.__all__)
    assert listed <= defined
    # Beside what is listed, a module may hold what it imports from the private ones for itself.
    assert {name for name in defined - listed if not vars(module)[name].__module__.startswith("kldiv_xp._")} == set()
    assert inspect.getdoc(module)
    for name in listed:
        doc = inspect.getdoc(getattr(module, name)) or ""
        assert len(doc.splitlines()) > 5
        assert "Examples" in doc
        parameters = inspect.signature(getattr(module, name)).parameters
        assert not [p for p in parameters if p not in doc]


def test_the_public_names_are_these() -> None:
    functions = ["js_div_with_logits", "kl_div", "kl_div_with_logits"]
    values = ["JSDivWithLogitsLoss", "KLDivLoss", "KLDivWithLogitsLoss"]
    assert sorted(kldiv_xp.__all__) == sorted([*values, *functions, *(f"{name}_value_and_grad" for name in functions)])
    assert sorted(kldiv_xp.torch.__all__) == sorted([*values, "kl_div"])
    assert kldiv_xp.__version__.count(".") == 2


def test_type_checkers_are_told_that_it_is_typed() -> None:
    assert (importlib.resources.files("kldiv_xp") / "py.typed").is_file()


def test_function_and_gradient_take_the_same_arguments() -> None:
    of_loss, of_gradient = (inspect.signature(f).parameters for f in (kldiv_xp.kl_div, kldiv_xp.kl_div_value_and_grad))
    assert list(of_loss) == ["input", "target", "reduction", "log_target", "where", "convention"]
    assert list(of_gradient) == [*of_loss, "argnums", "cotangent"]
    assert [of_gradient[name] for name in of_loss] == list(of_loss.values())


def test_every_lower_bound_is_a_version_that_make_test_lowest_runs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    requirements = [Requirement(r) for r in listed]
    bounds = {(r.name, s.operator, Version(s.version)) for r in requirements for s in r.specifier}
    lowest = {(name, version) for name, operator, version in bounds if operator == ">=" and name not in NEED_A_DEVICE}
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    tested = {name: Version(version) for name, version in (line.split("==") for line in lines if "==" in line)}
    assert {name for name, _ in lowest} <= tested.keys()
    assert lowest == {(name, tested[name]) for name, _ in lowest}
    # Only the suite's reference is pinned.
    assert {name for name, operator, _ in bounds if operator != ">="} == {"torch"}

"""Our loss by the array API alone, without what is made for the library."""

from typing import Any

from benchmarks.workload import Workload
from kldiv_xp._options import Options
from kldiv_xp.backends import find
from kldiv_xp.backends._standard import Backend


def plain(workload: Workload) -> Any:
    """Function of input and target."""
    reduction: Any = workload.reduction
    options = Options(reduction, workload.log_target, "oneflow")
    return lambda x, y: Backend.loss(find(x, y), x, y, options)

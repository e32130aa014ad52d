"""What is particular to JAX. Imported with the library, so it must not import jax itself."""

import sys
from typing import Any


def placement(x: Any) -> Any:
    """Devices that ``x`` is bound to; ``None`` if JAX is free to choose (for a tracer, or an uncommitted array)."""
    if isinstance(x, sys.modules["jax"].core.Tracer):
        return None
    return x.devices() if x.committed else None

"""Warnings about calls that are allowed, and probably mistakes."""

import sys
import warnings


def warn_of_logarithms(library: str) -> None:
    """Warn that all targets are negative, at the line that called the loss: Python shows it once for each line."""
    warnings.warn(
        "all targets are negative, as logarithms are; probabilities are not. Pass log_target=True if the target holds"
        " log-probabilities; exchange the arguments if it is the input, which comes first",
        stacklevel=caller(library),
    )


def caller(library: str) -> int:
    """Number of frames to the first one outside of this package and a library: a ``stacklevel``."""
    frame, level = sys._getframe(1), 1
    between = (__package__, library)
    while str(frame.f_globals.get("__name__")).partition(".")[0] in between and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    return level

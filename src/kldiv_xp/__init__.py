"""The Kullback-Leibler divergence loss, and divergences from logits, for every library of the array API standard."""

from kldiv_xp._losses import KLDivLoss, kl_div, kl_div_value_and_grad
from kldiv_xp._losses_from_logits import (
    JSDivWithLogitsLoss,
    KLDivWithLogitsLoss,
    js_div_with_logits,
    js_div_with_logits_value_and_grad,
    kl_div_with_logits,
    kl_div_with_logits_value_and_grad,
)

__all__ = [
    "JSDivWithLogitsLoss",
    "KLDivLoss",
    "KLDivWithLogitsLoss",
    "js_div_with_logits",
    "js_div_with_logits_value_and_grad",
    "kl_div",
    "kl_div_value_and_grad",
    "kl_div_with_logits",
    "kl_div_with_logits_value_and_grad",
]

__version__ = "0.1.0"

"""The Kullback-Leibler divergence loss for every array library that follows the array API standard."""

from kldiv_xp._losses import KLDivLoss, kl_div, kl_div_value_and_grad

__all__ = ["KLDivLoss", "kl_div", "kl_div_value_and_grad"]

__version__ = "0.1.0"

"""Relative error of the loss against its exact value."""

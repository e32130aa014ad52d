"""Knowledge distillation on scikit-learn's digits, written three times: for PyTorch, JAX and NumPy."""

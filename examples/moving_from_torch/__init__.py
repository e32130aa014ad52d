"""A PyTorch training script moved from ``torch.nn.KLDivLoss`` by changing one line: ``before.py`` and ``after.py``."""

"""The conformance suite: every implementation of the loss held against ``torch.nn.KLDivLoss``."""

"""From PyTorch weights to the bundle that flies."""

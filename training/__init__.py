"""Trains, evaluates and exports the models that fly; needs PyTorch, runs on a workstation."""

"""Training: label folders in, checkpoints out. Needs the extra `train`."""

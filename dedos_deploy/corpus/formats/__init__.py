"""Data sets of labels in the formats of others: written for trainers and annotation tools, read back."""

"""Stable Diffusion while training: loading, the walk of its steps, files and the cache."""

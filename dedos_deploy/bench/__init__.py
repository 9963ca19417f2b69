"""Measuring bundles on the machine at hand: stages, percentiles, memory, energy, and ceilings."""

"""Measuring bundles on the machine at hand: times, percentiles, memory, energy, and ceilings."""

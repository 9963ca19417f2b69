"""The parts of benchmarks/fuzz.py: what is attacked, how inputs are damaged, and who watches."""

"""The parts of benchmarks/peers.py: the authors' modules, their stand-ins, and what is compared."""

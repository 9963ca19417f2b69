"""The parts of benchmarks/first_run_on_gpu.py: steps, what each measures, and small engines to measure."""

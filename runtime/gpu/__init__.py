"""GPUs: TensorRT's two flavours, the CUDA kernels around them, and engines built on the device."""

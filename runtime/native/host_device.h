// Marks arithmetic that the CPU and a CUDA kernel share, so that CPU tests prove both.
#pragma once

#if defined(__CUDACC__)
#define DEDOS_HOST_DEVICE __host__ __device__
#else
#define DEDOS_HOST_DEVICE
#endif

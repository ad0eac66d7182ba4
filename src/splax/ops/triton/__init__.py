"""The renderer's kernels for NVIDIA GPUs, in Pallas Triton."""

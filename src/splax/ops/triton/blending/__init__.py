"""Kernels from the lists of the tiles to pixels, and back to gradients."""

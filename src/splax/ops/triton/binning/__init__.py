"""Kernels that find the tiles of each projected Gaussian, and make the list of each tile, front to back."""

"""Which tiles a projected Gaussian reaches, and the list of each tile, front to back."""

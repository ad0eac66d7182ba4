"""The rasterizer in plain JAX, for every platform."""

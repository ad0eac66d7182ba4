"""Where Gaussians start: on known points, on depth, or anywhere in a box."""

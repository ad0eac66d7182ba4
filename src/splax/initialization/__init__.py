"""Points that Gaussians start on: surface points from depth, or random points."""

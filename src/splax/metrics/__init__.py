"""Metrics: scores of how well a rendering agrees with a photo."""

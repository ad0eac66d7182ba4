"""Reports of a run for people: images, curves, videos, event files of TensorBoard."""

"""Photos without cameras, or a video, to a dataset: sharp frames, structure from motion, files."""

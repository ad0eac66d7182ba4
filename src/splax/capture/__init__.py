"""Makes a dataset of photos without cameras, or of a video: sharp frames, structure from motion, files."""

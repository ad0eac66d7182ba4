"""Functions of the lanes of one warp: loads, searches, sums, and the partition of work."""

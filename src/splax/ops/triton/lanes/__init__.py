"""What the lanes of one warp do together: loads, searches, sums, and shares of the work."""

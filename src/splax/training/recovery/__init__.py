"""States to go back to, in memory and on disk."""

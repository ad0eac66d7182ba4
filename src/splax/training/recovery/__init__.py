"""Keeps states of a run to go back to, in memory and on disk."""

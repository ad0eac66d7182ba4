"""Reads and writes splat files, that is files of Gaussians."""

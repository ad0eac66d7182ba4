"""Gaussians and pictures to and from files."""

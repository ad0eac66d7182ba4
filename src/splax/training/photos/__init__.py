"""Brings photos to the training step."""

"""Fitting a model to a scene."""

"""Losses: the terms whose sum training minimises."""

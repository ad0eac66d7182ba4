"""Hostile files for every reader: good ones, damage done to them, and what readers may do with the result."""

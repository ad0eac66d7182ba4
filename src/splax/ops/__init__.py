"""The renderer's stages: arrays in, arrays out. Imports nothing of splax but itself and the lenses."""

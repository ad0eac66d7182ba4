"""Scenes: from files to posed photos; numpy and OpenCV only."""

"""Datasets: readers that make a Scene of posed photos on disk, with numpy and OpenCV only."""

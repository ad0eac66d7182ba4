"""The host's decisions for the device: memory, compiled programs, steps per call."""

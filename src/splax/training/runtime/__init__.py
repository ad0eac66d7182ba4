"""What the host decides for the device: memory, compiled programs, steps for each call."""

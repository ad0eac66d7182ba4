"""How well a rendering agrees with a photo."""

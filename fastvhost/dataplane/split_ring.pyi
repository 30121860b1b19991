"""The device side of one split virtqueue. No Python face: ports install it."""

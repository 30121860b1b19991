"""The device side of one packed virtqueue. No Python face: ports install it."""

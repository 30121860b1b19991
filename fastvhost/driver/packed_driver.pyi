"""The driver side of one packed virtqueue. No Python face: devices call it."""

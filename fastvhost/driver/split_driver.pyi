"""The driver side of one split virtqueue pair. No Python face: devices call it."""

"""From the chains of a transmitq to frames. No Python face: virtio_device calls it."""

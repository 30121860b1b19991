"""What the device writes into a packed virtqueue. No Python face: packed_ring installs it."""

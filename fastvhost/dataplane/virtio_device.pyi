"""What workers do with a virtio-net device's queues. No Python face: ports install it."""

"""What a virtio-net device is to become, and the step in which it does. Nothing here is for Python."""

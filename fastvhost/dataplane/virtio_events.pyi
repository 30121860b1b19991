"""What workers found of a virtio-net device since its control thread looked last. See VirtioPort.events()."""

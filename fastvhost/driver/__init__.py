"""A virtio-net driver over vhost-user: what a guest does, for the demo, the benchmarks and the load."""

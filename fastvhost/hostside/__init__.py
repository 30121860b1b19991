"""The control side of ports whose other end is this host: interfaces that come and go, their state, their faults."""

"""Python, no data path: configuration, the forwarder that composes everything, statistics, control socket."""

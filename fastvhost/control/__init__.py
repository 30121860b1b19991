"""Python, no data path: configuration, the switch that composes everything, statistics, control socket."""

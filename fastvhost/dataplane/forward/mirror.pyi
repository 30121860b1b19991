"""Mirrors: copies of what a port sends and receives go to another one. For the data plane only."""

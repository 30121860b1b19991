"""Limits of what a port may send, in bits and in frames a second. For the data plane only."""

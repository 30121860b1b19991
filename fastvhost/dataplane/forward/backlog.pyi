"""Frames for one port of a switch that it has no room for now, copied. For the data plane only."""

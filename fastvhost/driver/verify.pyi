"""Verifies the frames that a built-in guest receives. Has nothing for Python: the load calls it."""

"""What frames of built-in guests contain, and whether all of it arrived. Has nothing for Python: the load uses it."""

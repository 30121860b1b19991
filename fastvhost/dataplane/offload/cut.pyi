"""Pieces of super-frames, for egresses that take none. Nothing of it is for Python."""

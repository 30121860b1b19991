"""Frames in a backlog go with their lane when it gets another worker. Nothing here is for Python."""

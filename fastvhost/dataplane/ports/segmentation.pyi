"""Checksums and super-frames of the host's stack, done in software. Nothing of it is for Python."""

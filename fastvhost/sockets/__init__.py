"""Sockets that have a file: made, made again where somebody removed it, and taken away; for ports and control alike."""

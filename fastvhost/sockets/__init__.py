"""Sockets that have a file: making it, making it again where somebody removed it, removing it.

For ports and control.
"""

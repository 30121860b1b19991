"""Kinds of port whose other end is this host: interfaces, files, a program. One kind per file."""

"""Benchmarks: one question per file, and what runs and records them."""

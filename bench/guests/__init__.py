"""Guests, under QEMU or user-mode Linux, and the programs beside them: for benchmarks, scripts and tests alike."""

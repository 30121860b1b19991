"""Guests under QEMU and the programs beside them, for whoever needs some: benchmarks, scripts and tests alike."""

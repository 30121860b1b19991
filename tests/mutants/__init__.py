"""Typical bugs, each seeded into the real sources on its own, and the one test that finds it."""

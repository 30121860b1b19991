"""Checks that run in the outer guest, where vhost-net and CUSE are: by tests/integration/test_outer.py, in one go."""

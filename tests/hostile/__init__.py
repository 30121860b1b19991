"""Hostile input: the known threats to a vhost-user back-end, one by one, checked against the invariants."""

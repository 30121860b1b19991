"""Hostile input: point by point what threats to a vhost-user back-end are known, against the invariants."""

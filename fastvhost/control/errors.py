"""Errors that the command line prints as one line on stderr, with exit code 1 or 2."""

from __future__ import annotations


class FastvhostError(Exception):
    """An error for the operator: the thing, the reason and the remedy, in one line."""

    exit_code = 1


class UsageError(FastvhostError):
    """Wrong usage or configuration: nothing was started."""

    exit_code = 2


class RuntimeFailure(FastvhostError):
    """Could not start what the configuration asks for, or failed while running."""

"""What the command line turns into one line on stderr and an exit code. Exit 1 and exit 2."""

from __future__ import annotations


class FastvhostError(Exception):
    """Something the operator must hear about: the thing, the reason and the remedy, in one line."""

    exit_code = 1


class UsageError(FastvhostError):
    """Wrong usage or configuration: nothing was started."""

    exit_code = 2


class RuntimeFailure(FastvhostError):
    """Could not start what the configuration asks for, or failed while running."""

"""Going on with a packed ring that another process served before."""

JOURNAL_BYTES: int
"""Bytes of what is noted of one ring: see VirtioPort.keep_journals()."""

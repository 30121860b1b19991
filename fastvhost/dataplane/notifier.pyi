"""The helper thread of a port: it signals where a worker would have to wait, and waits instead."""

MOST_RETIRED: int
"""Helper threads of one port that may be held in a write; with so many its front-end is refused."""
LOOK_SECONDS: float

class NotificationsStuckError(RuntimeError):
    """The front-end of a port cannot be notified. The text says why and what helps."""

class Notifier:
    """What a port notifies its driver by. VirtioPort makes it."""

class Helper:
    """The thread, and what it and control share. Notifier makes it."""

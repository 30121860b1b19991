"""The helper thread of a port: it signals where a worker would have to wait, and waits instead."""

MOST_RETIRED: int
"""The most helper threads of one port that may be stuck in a write. Where another is needed, its front-end must go."""
LOOK_SECONDS: float
"""Seconds between two looks at a helper thread. One that is in the same write at two looks is stuck."""

class NotificationsStuckError(RuntimeError):
    """The front-end of a port cannot be notified. The text says why and what helps."""

class Notifier:
    """Notifies the driver of one port. VirtioPort makes it."""

class Helper:
    """The helper thread, and the data that it shares with the control thread. Notifier makes it."""

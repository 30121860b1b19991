"""The control side of a port on an interface: a thread that attaches it, watches it, and attaches it again.

Whatever happens to the interface, the worker's calls fail at once: it counts the frames as link_down and goes on. This
thread finds out what happened, logs it once, and tries again every second and with every change.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fastvhost.backend.logbook import Line, Logbook
from fastvhost.dataplane.door import WorkerStuckError
from fastvhost.dataplane.threads import Thread
from fastvhost.hostside import interfaces
from fastvhost.hostside.errors import HostPortError
from fastvhost.hostside.interfaces import Interface
from fastvhost.hostside.namespaces import Namespace, Wanted
from fastvhost.hostside.port_api import HostPortApi

RETRY = 1.0
"""Seconds between two attempts to attach, and between two looks where the kernel reports no change."""
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
"""Errors that mean that this host has no memory or descriptors left, and say nothing about the interface."""
FATE_SECONDS = 0.5
"""Seconds to wait until the kernel tells whether an interface that is gone was moved."""
CARRIER_LOOK = 0.05
"""Seconds between two looks while the carrier is missing: the kernel reports it up to a second late."""
Given = TypeVar("Given")


def _watch(interface: str) -> interfaces.Watch:
    """Raises HostPortError where a sandbox forbids such sockets; OSError."""
    try:
        return interfaces.Watch()
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        remedy = "allow AF_NETLINK and AF_INET (systemd: RestrictAddressFamilies=)"
        raise HostPortError(f"{interface}: the sockets that tell its state are not allowed here; {remedy}") from error


class InterfaceService:
    """Base of the services of tap, packet, xdp and pcap ports. A subclass says how to attach, and when.

    netns: the network namespace that the interface is in, as the operator wrote it; empty for that of fwd.
    """

    attaches_down = False
    """Whether an interface can also be attached while it is missing or down."""
    follows_netns = True
    """Whether the kind of port takes netns=."""

    def __init__(self, port: HostPortApi, interface: str, netns: str = "") -> None:
        self._port = port
        self._name = interface
        self._wanted = Wanted(netns) if netns else None
        self._there: Namespace | None = None
        """The wanted namespace, while it is there."""
        self._logbook = Logbook(port.name)
        self._watch: interfaces.Watch | None = None
        self._wake = -1
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._attached: Interface | None = None
        self._was: Interface | None = None
        """The interface that was attached last."""
        self._losing = False
        """Whether the attached sockets are still to be released, because a worker was late at the door."""
        self._late = False
        self._retry_at = 0.0
        self._said = ""
        self._trouble = ""
        """Why the last look at the interface failed; empty where it did not."""
        self._stats_at = 0.0
        self._misses_carrier = False

    # For subclasses to define

    def _attach(self) -> str:
        """Open the interface and give it to the port. Returns a text for the log; raises HostPortError."""
        raise NotImplementedError

    def _release(self) -> None:
        """Close what _attach() opened, once the port does not use it any more. Idempotent."""
        raise NotImplementedError

    def _kernel_drops(self) -> int:
        """Frames that the kernel dropped since the last call because the port did not read them in time."""
        return 0

    @property
    def _is_away(self) -> bool:
        """Whether the attached interface was moved to another network namespace and still works."""
        return False

    def _is_attached(self, seen: Interface) -> bool:
        """Whether the interface that _seen() found is the attached one."""
        return self._attached is not None and seen.index == self._attached.index

    def _refused(self, _number: int, _now: float) -> bool:
        """A worker's call on the attached interface failed with this errno. Returns whether that was to be expected."""
        return False

    @property
    def _label(self) -> str:
        """The name of the interface in messages."""
        return self._name

    # For subclasses to use

    def _inside(self, act: Callable[[], Given]) -> Given:
        """Call act in the interface's network namespace. Raises HostPortError where that cannot be entered."""
        return act() if self._there is None else self._there.run(act)

    @property
    def _where(self) -> str:
        """" in " and the namespace; empty where it is that of fwd."""
        return f" in {self._wanted.words}" if self._wanted else ""

    @property
    def _prefix(self) -> str:
        """The words before a command that is to run there."""
        return self._wanted.prefix if self._wanted else ""

    # For the switch

    def open(self) -> None:
        """Attach, unless the interface is not there yet. Raises HostPortError where waiting would not help."""
        if self._wanted is None:
            self._watch = _watch(self._name)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self._look(time.monotonic(), first=True)
        except BaseException:
            self._shut()
            raise

    def start(self) -> None:
        """Watch, in a thread of its own, until stop()."""
        thread = Thread(target=self._run, name=f"control {self._port.name}", daemon=True)
        thread.start()
        self._thread = thread

    def withdraw(self) -> None:
        """The first step of a stop. Does nothing: there is no path here that another process could want."""

    def stop(self, timeout: float) -> None:
        """Detach and close. Raises TimeoutError when the thread does not end."""
        self._stopping = True
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise TimeoutError(f"the control thread of port {self._port.name} did not end in {timeout:g} s")
            self._thread = None
        self._shut()

    def describe(self) -> dict[str, Any]:
        """What `fastvhost show` tells. From any thread."""
        seen = self._named()
        about: dict[str, Any] = {"interface": self._name, "state": self._said or "waiting"}
        if self._wanted:
            about["netns"] = str(self._wanted)
        return about | (details(seen) if seen is not None else {})

    # The thread

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._wait()
                self._look(time.monotonic())
                self._trouble = ""
                if self._late:
                    self._late = False
                    self._write(logging.WARNING, "the worker is back")
            except WorkerStuckError as error:
                # The change did not take effect; the next look tries again. What is not fully attached is released.
                self._losing |= self._attached is None
                if not self._late:
                    self._late = True
                    self._write(logging.ERROR, f"{error}; nothing changes here until it is back")
                self._rest()
            except Exception as error:
                self._survive(error)
                self._rest()

    def _survive(self, error: Exception) -> None:
        """Log an error once. The interface is looked at again later.

        An attached interface stays attached: closing a tap would remove it with its settings. One that is not fully
        attached is released.
        """
        self._losing |= self._attached is None
        if isinstance(error, OSError) and error.errno in SHORT:
            level, trouble = logging.WARNING, f"{self._name} cannot be looked at: {error.strerror}; trying again"
        else:
            logging.getLogger("fastvhost").debug("port %s", self._port.name, exc_info=error)
            level, trouble = logging.ERROR, f"internal error {type(error).__name__}: {error}; trying again"
        if trouble != self._trouble:
            self._trouble = trouble
            self._write(level, trouble)

    def _rest(self, seconds: float | None = None) -> bool:
        """Wait until the next attempt, or a stop. Returns whether to stop."""
        poller = select.poll()
        if self._wake >= 0:
            poller.register(self._wake, select.POLLIN)
        poller.poll((RETRY if seconds is None else seconds) * 1000)
        return self._stopping

    def _wait(self) -> None:
        poller = select.poll()
        for waited in (self._wake, self._port.attention_fd, *([self._watch.fileno()] if self._watch else [])):
            poller.register(waited, select.POLLIN)
        poller.poll((CARRIER_LOOK if self._misses_carrier else RETRY) * 1000)
        if self._watch is not None:
            self._watch.drain()

    def _seen(self) -> Interface | None:
        """The attached interface, or else the one to attach to, as it is now.

        Raises OSError where the kernel does not tell.
        """
        return self._named()

    def _named(self, name: str = "") -> Interface | None:
        """The interface of that name in the port's namespace. From any thread."""
        watch, name = self._watch, name or self._name
        if watch is None:
            return None if self._wanted else interfaces.look(name)
        try:
            return watch.look(name)
        except ValueError:  # the control thread closed it meanwhile
            return None

    def _reach(self, wanted: Wanted, first: bool) -> bool:
        """Whether the namespace is there, and the same as before. Raises HostPortError only at the first look."""
        try:
            if self._there is not None:
                now = wanted.identity()
                if now == self._there.identity:
                    return True
                self._leave(self._there, wanted.left(now))
            there = wanted.open()
            if there is None:
                if first and wanted.ended:
                    raise HostPortError(wanted.missing, "usage")
                self._say(wanted.missing, logging.WARNING)
                return False
            try:
                self._watch = there.run(lambda: _watch(self._name))
            except BaseException:
                there.close()
                raise
            self._there = there
        except HostPortError as error:
            if first:
                raise
            self._say(str(error), logging.WARNING)
        return self._there is not None

    def _leave(self, there: Namespace, reason: str) -> None:
        """Close all files of the namespace: an open one would keep it alive, with all its interfaces."""
        if self._attached is not None:
            self._lose()
            self._say(f"{reason}, and {self._name} is let go of", logging.WARNING)
        if self._watch is not None:
            self._watch.close()
        self._watch = self._there = None
        there.close()

    def _look(self, now: float, first: bool = False) -> None:
        if self._losing:
            self._lose()
        if self._wanted is not None and not self._is_away and not self._reach(self._wanted, first):
            self._port.events()
            return
        seen = self._seen()
        for what, number in self._port.events():
            if what == "first_frame":
                self._write(logging.INFO, f"first packet from {self._label}")
                continue
            if self._refused(number, now):
                continue
            if seen is not None and seen.up and self._attached is not None:
                self._write(logging.WARNING, f"{self._label}: {os.strerror(number)} while frames were moved")
                if not self.attaches_down:
                    # It went down and came back between two looks; the sockets may not work any more.
                    self._lose()
        if self._attached is not None:
            self._count_drops(now)
            if seen is None or not self._is_attached(seen):
                label, self._was = self._label, self._attached
                self._lose()
                self._say(self._lost(label, self._was), logging.WARNING)
                # Whoever removed it may be about to make it again: do not make one of that name first.
                self._retry_at = now + RETRY
                return
            if not seen.up and not self.attaches_down:
                self._lose()
        if self._attached is None and now >= self._retry_at:
            self._try(seen, now, first)
        if self._attached is not None and seen is not None:
            self._follow(seen)

    def _lost(self, label: str, was: Interface) -> str:
        """A text for the log about an attached interface that is gone."""
        removed = f"{label} was removed; waiting for it to come back"
        if self._watch is None or self.attaches_down:
            return removed
        called = self._watch.name_of(was.index)
        if called and called != self._name:
            return f"{label} was renamed to {called}; waiting for an interface of its old name"
        return self._moved if self._watch.was_moved(was.index, FATE_SECONDS) else removed

    @property
    def _moved(self) -> str:
        there = " (netns= on the port finds it there)" if self.follows_netns else ""
        return f"{self._name} was moved to another network namespace; waiting for it to come back{there}"

    def _try(self, seen: Interface | None, now: float, first: bool) -> None:
        if not self.attaches_down:
            if seen is None:
                moved = self._watch is not None and self._was is not None and self._watch.was_moved(self._was.index)
                missing = f"there is no interface {self._name}{self._where}; waiting for it"
                self._say(self._moved if moved else missing, logging.WARNING)
                return
            if not seen.up:
                self._say_down()
                return
        try:
            said = self._attach()
        except HostPortError as error:
            self._release()
            # The interface may have been removed between the look and the call: then try again later.
            if first and not (seen is not None and self._seen() is None):
                raise
            self._say(str(error), logging.WARNING)
            self._retry_at = now + RETRY
            return
        self._attached = self._seen()
        if self._attached is None:
            self._lose()
            return
        self._was = self._attached
        self._said = said
        self._write(logging.INFO, said)
        self._follow(self._attached, quiet=True)

    def _follow(self, seen: Interface, quiet: bool = False) -> None:
        """Set the port's link: it is up where the interface is up and has a carrier.

        A tap's carrier is the port itself.
        """
        self._misses_carrier = seen.up and not seen.carrier and not self.attaches_down
        up = seen.up and not self._misses_carrier
        if up != self._port.link_up:
            self._port.set_link(up)
            if up and not quiet:
                self._say(f"{self._label} is up")
        if self._misses_carrier:
            self._say(f"{self._label} has no carrier; bring up its other end, or plug it in", logging.WARNING)
        elif not seen.up:
            self._say_down()

    def _say_down(self) -> None:
        remedy = f"{self._prefix}ip link set {self._name} up"
        self._say(f"{self._label} is down; bring it up with: {remedy}", logging.WARNING)

    def _count_drops(self, now: float) -> None:
        if now >= self._stats_at:
            self._stats_at = now + RETRY / 2
            with contextlib.suppress(OSError):  # they are counted the next time
                if drops := self._kernel_drops():
                    self._port.count_kernel_drops(drops)

    def _lose(self) -> None:
        self._losing = True
        self._port.detach()
        self._attached = None
        self._misses_carrier = False
        self._release()
        self._losing = False

    def _say(self, text: str, level: int = logging.INFO) -> None:
        """Log a state, unless it was the last one logged."""
        if text != self._said:
            self._said = text
            self._write(level, text)

    def _write(self, level: int, text: str) -> None:
        self._logbook.write(Line(level, text, "interface"))

    def _shut(self) -> None:
        with contextlib.suppress(Exception):
            if self._attached is not None:
                self._stats_at = 0.0
                self._count_drops(time.monotonic())
        self._lose()
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._there is not None:
            self._there.close()
            self._there = None
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1


def details(seen: Interface) -> dict[str, Any]:
    """The state of an interface for `fastvhost show`."""
    return {"index": seen.index, "mtu": seen.mtu, "mac": seen.mac, "up": seen.up, "carrier": seen.carrier}

"""The control thread of a port on an interface goes on after a worker came to the door late."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import time
from collections.abc import Callable, Iterator

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.dataplane.door import WorkerStuckError
from fastvhost.hostside import interfaces, service
from fastvhost.hostside.errors import HostPortError
from fastvhost.hostside.interfaces import Interface
from fastvhost.hostside.service import InterfaceService


class Port:
    """A port of the data plane; while `trouble` is set, no change gets through to its worker."""

    name = "p"

    def __init__(self) -> None:
        self.attention_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.link_up = self.attached = False
        self.trouble: Exception | None = None
        self.asked = 0
        self.found: list[tuple[str, int]] = []

    def _door(self) -> None:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble

    def attach(self) -> None:
        self._door()
        self.attached = True

    def set_link(self, up: bool) -> None:
        self._door()
        self.link_up = up

    def detach(self) -> None:
        self._door()
        self.attached = self.link_up = False

    def events(self) -> list[tuple[str, int]]:
        found, self.found = self.found, []
        return found

    def count_kernel_drops(self, frames: int) -> None: ...


class Service(InterfaceService):
    """Opens a file in the place of sockets; `opened` counts the open ones, of which there is never more than one."""

    def __init__(self, port: Port) -> None:
        super().__init__(port, "eth9")
        self.port = port
        self.seen: Interface | None = Interface("eth9", 7, True, True, 1500, "", True)
        self.opened = self.attachments = 0

    def _attach(self) -> str:
        assert self.opened == 0
        self.opened = 1
        self.port.attach()
        self.attachments += 1
        return "attached"

    def _release(self) -> None:
        assert not self.port.attached
        self.opened = 0


def stuck() -> WorkerStuckError:
    return WorkerStuckError("a worker did not park within 5 s; its core may be overloaded")


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(service, "RETRY", 0.02)
    made = Service(Port())
    monkeypatch.setattr(service.interfaces, "look", lambda *_: made.seen)
    made.open()
    made.start()
    wait_for(lambda: made.port.link_up)
    yield made
    made.port.trouble = None
    made.stop(MAX_WAIT)
    assert (made.port.attached, made.opened) == (False, 0)
    os.close(made.port.attention_fd)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + MAX_WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@contextlib.contextmanager
def a_late_worker(port: Port, trouble: Exception | None = None) -> Iterator[None]:
    """It fails twice: once in the block, and once after it."""
    port.asked, port.trouble = 0, trouble or stuck()
    yield
    wait_for(lambda: port.asked > 1)
    port.trouble = None


def test_a_link_that_changed_while_a_worker_was_late_is_set_once_it_is_back(
    attached: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fastvhost")
    with a_late_worker(attached.port):
        attached.seen = Interface("eth9", 7, True, False, 1500, "", True)
    wait_for(lambda: not attached.port.link_up)
    # The interface stays attached: a tap of this port would otherwise be removed with its settings.
    assert (attached.port.attached, attached.attachments) == (True, 1)
    wait_for(lambda: "the worker is back" in caplog.text)
    assert caplog.text.count("did not park") == 1


def test_an_interface_that_went_while_a_worker_was_late_is_let_go_of_and_taken_up_again(attached: Service) -> None:
    with a_late_worker(attached.port):
        attached.seen = None
    wait_for(lambda: not attached.port.attached)
    attached.seen = Interface("eth9", 8, True, True, 1500, "", True)
    wait_for(lambda: attached.port.link_up)
    assert attached.attachments == 2


def test_a_failed_call_that_was_reported_while_a_worker_was_late_is_not_forgotten(attached: Service) -> None:
    with a_late_worker(attached.port):
        attached.port.found.append(("error", 100))  # the interface was down, and is back
        os.eventfd_write(attached.port.attention_fd, 1)
    wait_for(lambda: attached.attachments == 2 and attached.port.link_up)


def test_what_was_opened_for_a_worker_that_is_late_is_closed_before_it_is_opened_again(attached: Service) -> None:
    attached.seen = None
    wait_for(lambda: not attached.port.attached and attached.opened == 0)
    with a_late_worker(attached.port):
        attached.seen = Interface("eth9", 8, True, True, 1500, "", True)
    wait_for(lambda: attached.port.link_up)
    assert attached.attachments == 2


@pytest.mark.parametrize("trouble", [ValueError("a defect"), MemoryError()])
def test_an_internal_error_ends_neither_the_thread_nor_the_attachment_and_is_logged_once(
    attached: Service, caplog: pytest.LogCaptureFixture, trouble: Exception
) -> None:
    with a_late_worker(attached.port, trouble):
        attached.seen = Interface("eth9", 7, True, False, 1500, "", True)
    wait_for(lambda: not attached.port.link_up)
    attached.seen = Interface("eth9", 7, True, True, 1500, "", True)
    wait_for(lambda: attached.port.link_up)
    # A tap that this port made would otherwise be removed with its addresses.
    assert (attached.port.attached, attached.attachments) == (True, 1)
    assert caplog.text.count("internal error") == 1


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_look_that_fails_for_want_of_something_is_no_sign_that_the_interface_is_gone(
    attached: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    looks = []

    def fail(*_: object) -> None:
        looks.append(1)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(service.interfaces, "look", fail)
    wait_for(lambda: len(looks) > 2)
    monkeypatch.setattr(service.interfaces, "look", lambda *_: attached.seen)
    attached.seen = Interface("eth9", 7, True, False, 1500, "", True)
    wait_for(lambda: not attached.port.link_up)
    assert (attached.port.attached, attached.attachments) == (True, 1)
    assert caplog.text.count(f"eth9 cannot be looked at: {os.strerror(number)}") == 1


def test_a_watch_that_was_opened_looks_without_another_file_and_tells_gone_from_not_asked() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    watch = interfaces.Watch()
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        seen = watch.look("lo")
        assert (seen is not None and seen.index, watch.look("none")) == (1, None)
        with pytest.raises(OSError, match="Too many open files"):
            interfaces.look("lo")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        watch.close()


def test_a_sandbox_without_netlink_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden() -> None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(service.interfaces, "Watch", forbidden)
    port = Port()
    with pytest.raises(HostPortError, match=r"^eth9: the sockets .* not allowed here; allow AF_NETLINK and AF_INET"):
        Service(port).open()
    os.close(port.attention_fd)

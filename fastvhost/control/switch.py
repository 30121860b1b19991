"""A forwarder in this program: what `fastvhost.Switch` gives."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Self

from fastvhost.control import changeover, config, edits, host, open_files, preflight
from fastvhost.control.errors import UsageError
from fastvhost.control.events import Event, Observer
from fastvhost.control.forwarder import Forwarder
from fastvhost.control.stats import Snapshot, snapshot
from fastvhost.dataplane.threads import Thread

if TYPE_CHECKING:
    from fastvhost.control.config import FwdConfig
    from fastvhost.control.parts import Parts
    from fastvhost.dataplane.forwarding_table import ForwardingTable

log = logging.getLogger("fastvhost")
TICK_SECONDS = 0.5
"""Seconds between two looks at the clock of the forwarding table."""
_OPTIONS = {key.replace("-", "_") for key in config.OPTIONS} - {"port"}
EVENT_SECONDS = 0.05
"""Seconds between two looks for events."""


class Switch:
    """An Ethernet switch, or wires, between ports of any kind, forwarded by threads of this program.

    ports: what `fwd --port` takes, such as "a.sock", "tap:tap0" or "vhost-user:b.sock,vlan=10"; two at least.
    options: those of `fastvhost fwd` under their long names, with _ for -, such as forward="learn", wire=["a:b"],
    cores="2-3", mac_age="60s". The same defaults: two ports are a wire, three or more a switch.

    It runs inside the `with` block, or from start() to stop(). Every method may be called from any thread.
    Raises UsageError for what makes no sense and RuntimeFailure for what the system refuses; both say in one line what
    is wrong and what helps.
    """

    _clock: Thread | None
    """Who calls tick(); None: the owner does."""

    def __init__(self, *ports: str, **options: Any) -> None:
        given = {key.replace("_", "-"): value for key, value in options.items()}
        for key in given:
            if key.replace("-", "_") not in _OPTIONS:
                raise UsageError(f"Switch: there is no option '{key}'; the options are {', '.join(sorted(_OPTIONS))}")
        self._make(config.build({"port": list(ports), **given}), None)
        self._clock = Thread(target=self._tick, name="table-clock", daemon=True)

    @classmethod
    def of(cls, settings: FwdConfig, parts: Parts | None = None) -> Switch:
        """The switch of a configuration, for a program that calls tick() itself, as `fastvhost fwd` does."""
        made = cls.__new__(cls)
        made._make(settings, parts)
        return made

    def _make(self, settings: FwdConfig, parts: Parts | None) -> None:
        preflight.check(settings)
        self._warnings = list(open_files.check(settings, open_files.raise_limit()))
        seen = host.observe()
        self._cores_known = bool(seen.busy)
        self.plan = host.plan_cores(settings.cores, seen, settings.most_workers)
        """Which threads run on which cores."""
        self._warnings += [*self.plan.warnings, *settings.without_wires, *settings.same_macs]
        self.forwarder = Forwarder(settings, self.plan, parts)
        """What it consists of: for this package, not for programs."""
        self._observer = Observer(self.forwarder)
        self._ended = threading.Event()
        self._clock = None

    def start(self) -> None:
        """Open the ports and start the workers. On failure everything that was started is stopped again."""
        if not self._cores_known:
            log.info("how busy the cores are is not known here; fastvhost doctor says why")
        for warning in self._warnings:
            log.warning("%s", warning)
        self.forwarder.start()
        if self._clock:
            self._clock.start()

    def stop(self) -> None:
        """Close the ports, and end all threads within two seconds. What guests sent before is delivered. Idempotent."""
        if not self._ended.is_set() and self.halt():
            self.close()

    def halt(self) -> bool:
        """The same, and counters can still be read until close(). False where a thread does not end; then never close.

        Not idempotent.
        """
        self._ended.set()
        return self.forwarder.stop()

    def close(self) -> None:
        """Unmap what guests shared. After halt() returned True."""
        self.forwarder.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _tick(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            try:
                self.tick()
            except Exception as error:
                log.exception("the forwarding table: internal error %r; please report it", error)

    def tick(self) -> None:
        """What the forwarding table needs once a second. For who has made it by of()."""
        self.forwarder.tick(time.monotonic())

    def change(self, edit: changeover.Edit) -> tuple[str, ...]:
        """Have its ports and wires as the edited configuration says. Returns a line about each change."""
        return changeover.change(self.forwarder, edit)

    @property
    def ports(self) -> tuple[str, ...]:
        """The names of the ports, by number."""
        return tuple(unit.spec.name for unit in self.forwarder.ports)

    @property
    def wires(self) -> tuple[tuple[str, str], ...]:
        """Pairs of ports that are joined. None in an Ethernet switch."""
        return self.forwarder.config.wires

    @property
    def table(self) -> ForwardingTable | None:
        """The forwarding table, by numbers of ports; None where frames go along wires."""
        bridge = self.forwarder.bridge
        return None if bridge is None else bridge.table

    def add_port(self, spec: str) -> None:
        """Add a port while the others go on. spec: what `fwd --port` takes."""
        self.change(lambda now: edits.add_port(now, spec))

    def remove_port(self, name: str) -> None:
        """Remove a port, and its wire, while the others go on."""
        self.change(lambda now: edits.remove_port(now, name))

    def set_port(self, name: str, keys: str) -> None:
        """Change what is done with a port's frames, while it goes on. keys: "rate=1Gbit,storm=off"; "rate=" ends it."""
        self.change(lambda now: edits.set_port(now, name, keys))

    def add_wire(self, left: str, right: str) -> None:
        """Join two ports that have no wire."""
        self.change(lambda now: edits.add_wire(now, f"{left}:{right}"))

    def remove_wire(self, left: str, right: str) -> None:
        """Part two ports: the frames of both drop as no_egress from then on."""
        self.change(lambda now: edits.remove_wire(now, f"{left}:{right}"))

    def counters(self) -> Snapshot:
        """Counters of all ports and workers, as `fastvhost stats --json` prints them, without rates."""
        return snapshot(self.forwarder)

    def describe(self, port: str | None = None) -> list[dict[str, Any]]:
        """All ports, or the one of this name, as `fastvhost show --json` prints them. KeyError: there is none."""
        return self.forwarder.describe(port)

    @property
    def failure(self) -> str:
        """Why it cannot go on, or empty."""
        return self.forwarder.failure

    def look(self) -> list[Event]:
        """What happened since the last call of look() or the last event of events(). For one reader."""
        return self._observer.look()

    async def events(self) -> AsyncIterator[Event]:
        """What happens at the ports and in the table, 50 ms later at the most (a second for addresses), until stop().

        For one reader, in any event loop. It looks, rather than being called: a slow reader misses what came and went
        meanwhile, and delays nobody.
        """
        while not self._ended.is_set():
            for event in self.look():
                yield event
            await asyncio.sleep(EVENT_SECONDS)

"""A program at one end, any kind of port at the other, a worker between them: what `fastvhost.attach` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from fastvhost.control import affinity, policy_checks, port_text, preflight
from fastvhost.control.config import FwdConfig
from fastvhost.control.host import CorePlan
from fastvhost.control.policy import Policy
from fastvhost.control.port_spec import Kind, PortSpec
from fastvhost.control.stats import Snapshot
from fastvhost.control.switch import Switch

if TYPE_CHECKING:
    from fastvhost.dataplane.ports.endpoint import Endpoint

PROGRAM = "program"


class _Program(Kind):
    """The kind of the endpoint's port, which no command line can name: its other end is this program."""

    name = "endpoint"
    endpoint: Endpoint

    def __init__(self, slots: int, slot_bytes: int | None, offloads: bool) -> None:
        self._slots, self._slot_bytes, self._offloads = slots, slot_bytes, offloads

    def make_port(self, spec: PortSpec, door: Any) -> Endpoint:
        from fastvhost.dataplane.ports.endpoint import Endpoint

        self.endpoint = Endpoint(
            spec.name, door, slots=self._slots, slot_bytes=self._slot_bytes, offloads=self._offloads
        )
        return self.endpoint


class Attachment:
    """A port of any kind, attached to this program: frames come and go through `endpoint` inside the `with` block.

    spec: what `fwd --port` takes, such as "vhost-user:a.sock", "pcap:tap0" or "tap:tap0".
    core: pin the worker to this CPU; None leaves it where it may run.
    idle: what the worker does without frames: "adaptive" (naps, then sleeps), "poll" (never sleeps) or "interrupt".
    slots, slot_bytes: the endpoint's buffers, see Endpoint.
    offloads: whether frames may leave checksums and segmentation to whoever gets them, both ways, see Burst.offload.

    Raises UsageError for a spec that makes no sense, RuntimeFailure where the port cannot be opened; both say in one
    line what is wrong and what helps.
    """

    def __init__(
        self,
        spec: str,
        *,
        core: int | None = None,
        idle: str = "adaptive",
        slots: int = 1024,
        slot_bytes: int | None = None,
        offloads: bool = False,
    ) -> None:
        self.spec = port_text.parse(spec)
        kind = _Program(slots, slot_bytes, offloads)
        program = PortSpec(kind, "", Policy(PROGRAM if self.spec.name != PROGRAM else f"{PROGRAM}-2"))
        policy_checks.check((self.spec, program), learn=False)
        config = FwdConfig((self.spec, program), ((self.spec.name, program.name),), idle=idle)
        preflight.check(config)
        allowed = affinity.allowed()
        self._switch = Switch.of(config, CorePlan((core,), allowed, allowed))
        self.endpoint = kind.endpoint

    def __enter__(self) -> Self:
        """Open the port and start the worker."""
        self._switch.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop the worker, close the port. The endpoint raises EndpointClosedError from then on."""
        self.endpoint.end()
        self._switch.stop()

    @property
    def link_up(self) -> bool:
        """Whether the other end takes frames now."""
        return self._switch.wiring.ports[0].port.link_up

    def stats(self) -> Snapshot:
        """Counters of both ports and the worker, as `fastvhost stats --json` prints them."""
        return self._switch.counters()

    def describe(self) -> dict[str, Any]:
        """The other end, as `fastvhost show --json` prints it."""
        return self._switch.describe(self.spec.name)[0]


def attach(spec: str, **options: Any) -> Attachment:
    """`with fastvhost.attach("pcap:tap0") as port: port.endpoint.recv()`. Options: see Attachment."""
    return Attachment(spec, **options)

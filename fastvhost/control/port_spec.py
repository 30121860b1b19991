"""A port as the operator asked for it (PortSpec), and what the control plane must know of its kind (Kind)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastvhost.backend.qemu import Version
from fastvhost.control.errors import UsageError
from fastvhost.control.finding import Finding
from fastvhost.control.policy import Policy
from fastvhost.control.port_parts import AnyPort, Service

Options = Mapping[str, str]
"""Keys of a port as they were written."""
Keys = tuple[tuple[str, str], ...]
"""Keys of a port and their values, checked, in the order in which they are printed."""


@dataclass(frozen=True, slots=True)
class PortSpec:
    """One port as the operator asked for it, validated."""

    kind: Kind
    value: str
    """What follows the colon: a path, or the name of an interface or a device; empty where the kind has no value."""
    policy: Policy
    keys: Keys = ()
    """The keys of its kind, and their values."""

    @property
    def name(self) -> str:
        """The name of the port."""
        return self.policy.name

    def option(self, key: str, default: str = "") -> str:
        """The value of a key of its kind."""
        return dict(self.keys).get(key, default)

    @property
    def queues(self) -> int:
        """How many queue pairs it has."""
        return int(self.option("queues", "1"))

    @property
    def mac(self) -> str:
        """The address of its device, in lower case; empty where none was given."""
        return self.option("mac")

    @property
    def socket(self) -> str:
        """The path of its socket, as it was written; empty where its kind has none."""
        return self.value if self.kind.value_is_a_socket else ""

    def is_but_for_policy(self, other: PortSpec) -> bool:
        """Whether it is the same port, whatever forwarding does with its frames."""
        return (self.kind, self.value, self.keys, self.name) == (other.kind, other.value, other.keys, other.name)

    def __str__(self) -> str:
        pairs = ",".join(f"{key}={value}" for key, value in (*self.keys, *self.policy.keys))
        return f"{self.kind.name}:{pairs}" if self.kind.keys_only else f"{self.kind.name}:{self.value},{pairs}"


class Kind(ABC):
    """One kind of port. Each file of control/kinds has one, and calls it KIND.

    The methods here fit a kind without keys, without a service, and without needs of the host; others override them.
    """

    name: str
    """What stands before the colon."""
    place: int
    """Its place in lists of the kinds: smaller ones come first."""
    usage: str
    """Its lines in the help of fwd."""
    keys: tuple[str, ...] = ()
    """The keys that it takes beside those of every kind."""
    keys_only = False
    """It has no value: its first key follows the colon."""
    bare_suffix = ""
    """A bare path with this ending is a port of this kind."""
    value_is_a_socket = False
    """Its value is the path of a socket, which no other port may use."""
    never_sends = False
    """No frame comes from it, and no worker polls it."""
    findings: tuple[Callable[[], Finding], ...] = ()
    """The checks of `fastvhost doctor` for it."""
    guests: tuple[str, ...] = ()
    """The guests that example() has lines for."""

    def read(self, where: str, value: str, options: Options) -> Keys:  # noqa: ARG002
        """Its keys, checked. where: what an error names. Raises UsageError where value or keys make no sense."""
        return ()

    def default_name(self, value: str, options: Options) -> str:  # noqa: ARG002
        """The port's name where none was given."""
        return value

    def check_host(self, spec: PortSpec) -> tuple[str, ...]:  # noqa: ARG002
        """Check that it can work here, without changing anything. Returns paths that another process uses now.

        Raises UsageError, or RuntimeFailure.
        """
        return ()

    @abstractmethod
    def make_port(self, spec: PortSpec, door: Any) -> AnyPort:
        """Make the data plane port. Methods import the data plane themselves: commands that need none start without."""

    def make_service(self, spec: PortSpec, port: Any, socket_group: str | None) -> Service | None:  # noqa: ARG002
        """Make the service, where it has one. socket_group: the group that may connect, by name or number."""
        return None

    def describe(self, spec: PortSpec) -> dict[str, Any]:  # noqa: ARG002
        """What `fastvhost show` prints of it. What its service tells is printed behind that."""
        return {}

    def from_description(self, about: Mapping[str, Any]) -> PortSpec:
        """A PortSpec from what `fastvhost show --json` prints, as far as a guest's lines depend on it."""
        return PortSpec(self, "", Policy(about["name"]))

    def example(self, guest: str, spec: PortSpec, memory: str, version: Version | None) -> str:
        """Lines to paste that attach a guest, one of `guests`. version: of QEMU; None: the newest.

        Raises UsageError where such a guest cannot have such a port.
        """
        raise UsageError(f"{guest}: a {self.name} port takes no guest: {spec}, {memory}, {version}")

    def remark(self, guest: str, spec: PortSpec, version: Version | None) -> str:  # noqa: ARG002
        """A remark for the operator about these lines; or an empty text."""
        return ""

"""null: takes and forgets every frame, and sends none."""

from __future__ import annotations

from typing import Any

from fastvhost.control.errors import UsageError
from fastvhost.control.port_parts import AnyPort
from fastvhost.control.port_spec import Keys, Kind, Options, PortSpec


class Null(Kind):
    """A port without another end."""

    name, place = "null", 80
    usage = "null:"
    never_sends = True

    def read(self, where: str, value: str, options: Options) -> Keys:  # noqa: ARG002
        """It has neither value nor keys."""
        if value:
            raise UsageError(f"{where}: null: takes no value; name the port with null:,name={value}")
        return ()

    def default_name(self, value: str, options: Options) -> str:  # noqa: ARG002
        """One of them needs none."""
        return self.name

    def make_port(self, spec: PortSpec, door: Any) -> AnyPort:  # noqa: ARG002
        """A NullPort, which never changes and needs no door."""
        from fastvhost.dataplane.port import NullPort

        return NullPort(spec.name)


KIND = Null()

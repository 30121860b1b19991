"""loop: sends back what it gets."""

from __future__ import annotations

from typing import Any

from fastvhost.control.port_parts import AnyPort
from fastvhost.control.port_spec import Kind, Options, PortSpec


class Loop(Kind):
    """A port whose other end is its own beginning."""

    name, place = "loop", 90
    usage = "loop:"

    def default_name(self, value: str, options: Options) -> str:  # noqa: ARG002
        """One of them needs none."""
        return self.name

    def make_port(self, spec: PortSpec, door: Any) -> AnyPort:  # noqa: ARG002
        """It never changes, and has no use for a door."""
        from fastvhost.dataplane.ports.loop import LoopPort

        return LoopPort(spec.name)


KIND = Loop()

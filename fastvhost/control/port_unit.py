"""One port of a running switch, with what belongs to it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from fastvhost.control.port_parts import AnyPort, Service
from fastvhost.control.port_spec import PortSpec

log = logging.getLogger("fastvhost")


@dataclass(slots=True, eq=False)
class PortUnit:
    """A port of the data plane, its service, and its number."""

    number: int
    spec: PortSpec
    """Another one where its policy changes."""
    port: AnyPort
    service: Service | None

    def withdraw(self) -> None:
        """Remove its path and take no more front-ends. Does not wait. Idempotent."""
        if self.service:
            try:
                self.service.withdraw()
            except Exception as error:
                log.warning("port %s: its path is not free: %s", self.spec.name, error, extra=self._fields)

    def stopped(self, timeout: float) -> bool:
        """Stop its service. Whether that ended within `timeout` seconds; the log says why not, unless timeout is 0."""
        try:
            if self.service:
                self.service.stop(timeout)
        except Exception as error:
            if timeout:
                log.warning("port %s: did not stop cleanly: %s", self.spec.name, error, extra=self._fields)
            return False
        return True

    @property
    def _fields(self) -> dict[str, str]:
        return {"port": self.spec.name, "about": "defects"}

"""Random changes of a running switch: of its ports, of their policies, and of its forwarding table.

a and b are the only ports of VLAN 10 that send in it, so that no frame of others may come to them. All others are in
VLAN 20, in several, or in all, and get what is flooded between a and b after their addresses were flushed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.integration.changers import TOUCHED, Changer
from tests.unit.forwarder import Forwarder

ALONE = {"vlan": "10", "storm": "off"}
"""Keys of a and b. They flood after each flush, at full rate: nothing but a lack of room may drop such frames."""
AT_FIRST = {"vlan": "20"}
"""Keys of c and d."""
VLANS: Sequence[tuple[dict[str, str], tuple[int, ...]]] = (
    ({}, (0, 10, 20, 30)),
    ({"vlan": "20"}, (20,)),
    ({"vlan": "30"}, (30,)),
    ({"trunk": "10+20"}, (10, 20)),
    ({"trunk": "20-29", "native": "20"}, (20, 29)),
)
"""Keys of a port that comes, and VLANs that it is a member of. In none of them it sends in VLAN 10 without a tag."""
POLICIES = {
    "isolate": ("tenants", "others"),
    "storm": ("off", "50", "500+multicast"),
    "max-macs": ("1", "4"),
    "mirror": TOUCHED,
    "rate": ("10Mbit", "1Gbit"),
    "pps": ("500", "100k"),
}
OF_TOUCHED = ("isolate", "storm", "max-macs")
"""Those of them that c and d get: their limits stay."""
KEYS = ("vlan", "trunk", "native", "macs", *POLICIES)
STATIONS = tuple(f"52:54:00:00:01:{number:02x}" for number in range(8))
"""Addresses of static entries."""
GUEST_A = "52:54:00:00:00:01"
"""The address of the guest at a (fastvhost/driver/device.pyx)."""
NOBODYS = "52:54:00:00:03:01"


def own_address(name: str) -> str:
    """Of the guest at a port that comes."""
    return f"52:54:00:00:02:{ord(name):02x}"


class OfSwitch(Changer):
    """Of a fwd with --forward learn."""

    def __init__(self, fwd: Forwarder, seed: int) -> None:
        super().__init__(fwd, seed)
        ports, _ = self.seen()
        self._at_first = {name: ports[name] for name in TOUCHED}
        self._keys: dict[str, dict[str, str]] = dict(self._at_first)
        self._members: dict[str, tuple[int, ...]] = dict.fromkeys(TOUCHED, (20,))
        self._static: dict[tuple[str, int], str] = {}

    @property
    def kinds(self) -> Sequence[Callable[[], None]]:
        mac = (self.add, self.add, self.delete, self.flush, self.flush)
        return self.port, self.port, self.set, self.set, *mac, self.wrong

    def spec_of(self, name: str) -> str:
        vlans, self._members[name] = self.random.choice(VLANS)
        keys = dict(vlans)
        for key in self.random.sample(sorted(POLICIES), self.random.randrange(3)):
            keys[key] = self.random.choice(POLICIES[key])
        if self.random.random() < 0.3:
            keys["macs"] = own_address(name)
        self._keys[name] = keys
        return "".join(f",{key}={value}" for key, value in keys.items())

    def frame(self, number: int) -> bytes:
        """To everybody, or to an address that nobody has."""
        to = "ff:ff:ff:ff:ff:ff" if number % 2 else NOBODYS
        return bytes.fromhex((to + own_address("z")).replace(":", "")) + b"\x88\xb5" + bytes([number]) * 46

    def seen(self) -> tuple[Any, Any]:
        ports = {
            port["name"]: {key: port[shown] for key in KEYS if (shown := key.replace("-", "_")) in port}
            for port in self.tell("show")
        }
        rows, first = [], 0
        while first is not None:
            page = self.tell("mac-show", **{"from": first})
            rows += page["rows"]
            first = page["next"]
        return ports, {(row["address"], row["vlan"]): row["port"] for row in rows if row["static"]}

    def known(self) -> tuple[Any, Any]:
        return {"a": ALONE, "b": ALONE, **{name: self._keys[name] for name in self.there}}, self._static

    def set(self) -> None:
        """Other policies of a port, or none, or other VLANs."""
        name = self.random.choice(sorted(self.there))
        if self.random.random() < 0.3:
            few = [1, 2] if name in TOUCHED else range(len(VLANS))  # c and d go on to send in VLANs that others have
            vlans, self._members[name] = VLANS[self.random.choice(few)]
            keys = {"vlan": "", "trunk": "", "native": ""} | vlans
        elif name not in TOUCHED and self.random.random() < 0.2:
            keys = {"macs": self.random.choice(("", own_address(name)))}
        else:
            settable = OF_TOUCHED if name in TOUCHED else sorted(POLICIES)
            keys = {key: self.random.choice(("", *POLICIES[key])) for key in self.random.sample(settable, 2)}
        self._set(name, keys)

    def _set(self, name: str, keys: dict[str, str]) -> None:
        """Values by key; an empty one takes the key away."""
        self.ask("port-set", name=name, keys=",".join(f"{key}={value}" for key, value in keys.items()))
        self._keys[name] = {key: value for key, value in (self._keys[name] | keys).items() if value}

    def add(self) -> None:
        """A static entry; refused where the address has one at another port."""
        address, name = self.random.choice(STATIONS), self.random.choice(sorted(self.there))
        vlan = self.random.choice(self._members[name])
        request = {"address": address, "port": name, "vlan": vlan}
        if self._static.get((address, vlan), name) != name:
            self.refused("mac-add", **request)
            return
        self.ask("mac-add", **request)
        self._static[address, vlan] = name

    def delete(self) -> None:
        """A static entry, or one that is not there."""
        if not self._static:
            self.refused("mac-del", address=self.random.choice(STATIONS))
            return
        address, vlan = entry = self.random.choice(sorted(self._static))
        self.ask("mac-del", address=address, vlan=vlan)
        del self._static[entry]

    def flush(self) -> None:
        """Of a port (a and b, too), of a VLAN, of both, or all."""
        request: dict[str, object] = {}
        if self.random.random() < 0.5:
            request["port"] = self.random.choice(sorted(self.there | {"a", "b"}))
        if self.random.random() < 0.5:
            request["vlan"] = self.random.choice((0, 10, 20, 30))
        assert "forgotten" in self.ask("mac-flush", **request)

    def wrong(self) -> None:
        name = self.random.choice(sorted(self.there))
        reserved = [address for keys in self._keys.values() if (address := keys.get("macs"))]
        command, request = self.random.choice(
            (
                ("wire-add", {"wire": f"a:{name}"}),
                ("port-add", {"spec": self.socket("a")}),
                ("port-add", {"spec": self.socket("u") + ",vlan=4095"}),
                ("port-add", {"spec": self.socket("u") + ",mirror=nobody"}),
                ("port-del", {"name": "nobody"}),
                ("port-set", {"name": "nobody", "keys": "rate=1Gbit"}),
                ("port-set", {"name": name, "keys": "storm=77,queues=2"}),
                ("port-set", {"name": name, "keys": "isolate=third,mirror=nobody"}),
                ("port-set", {"name": name, "keys": "max-macs=7,vlan=10,trunk=10"}),
                *(("port-set", {"name": "c", "keys": f"storm=77,vlan=21,macs={address}"}) for address in reserved),
                *(("mac-add", {"address": address, "port": "c", "vlan": 20}) for address in reserved),
                ("mac-add", {"address": GUEST_A, "port": "c", "vlan": 10}),
                ("mac-add", {"address": NOBODYS, "port": "nobody", "vlan": 20}),
                ("mac-add", {"address": "53:54:00:00:03:01", "port": name}),
                ("mac-del", {"address": NOBODYS, "vlan": 20}),
                ("mac-flush", {"port": "nobody"}),
                ("mac-flush", {"port": name, "vlan": 4095}),
            )
        )
        self.refused(command, **request)

    def forget(self, name: str) -> None:
        """Its static entries are gone with it."""
        del self._keys[name], self._members[name]
        self._static = {entry: port for entry, port in self._static.items() if port != name}

    def restore(self) -> None:
        super().restore()
        for name, keys in self._at_first.items():
            self._set(name, dict.fromkeys(self._keys[name], "") | keys)
            self._members[name] = (20,)
        for address, vlan in sorted(self._static):
            self.ask("mac-del", address=address, vlan=vlan)
        self._static = {}

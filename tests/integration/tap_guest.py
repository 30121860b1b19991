"""A QEMU guest without vhost-user: an emulated network card on a tap interface of a namespace."""

from __future__ import annotations

from pathlib import Path

from bench.guests.agent import ObedientGuest, serial_options
from bench.guests.cores import on_guest_cores
from bench.guests.kernel import WORDS
from bench.guests.qemu import boot_words
from tests.integration.namespace import Namespace


class TapGuest(ObedientGuest):
    """model: QEMU's network card, such as "e1000" or "virtio-net-pci". The tap is made before, and outlives it."""

    def __init__(self, name: str, directory: Path, space: Namespace, tap: str, model: str, number: int = 1) -> None:
        self.address = f"10.0.0.{number}"
        command = on_guest_cores(
            "qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-cpu", "max", "-m", "192M",
            "-machine", "q35",
            *boot_words(f"{WORDS} swiotlb=noforce guest_address={self.address}/24 guest_mtu=1500"),
            *serial_options(directory, name),
            "-netdev", f"tap,id=n0,ifname={tap},script=no,downscript=no,vhost=off",
            "-device", f"{model},netdev=n0,mac=52:54:00:00:00:{number:02x}",
        )  # fmt: skip
        super().__init__(name, [*space.prefix, *command], directory)

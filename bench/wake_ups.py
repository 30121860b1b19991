"""Is a wake-up ever lost? Ping-pongs between a driver and a device that both sleep whenever they may.

usage: python -m bench.wake_ups [--rounds 10000000] [--ring split|packed|both] [--seed N] [--no-record]
Needs the probes: FASTVHOST_PROBES=1 python setup.py build_ext --inplace. Exits with 1 where a side slept for a second
with something to do. tests/unit/test_wake_ups.py runs as many, over all formats together, with --long; else a tenth.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from bench.record import write
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.guest_memory import GuestMemory, Mapping
from fastvhost.dataplane.queue_setup import QueueSetup
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.driver.device import GuestDevice
from fastvhost.driver.frontend import Feature
from fastvhost.driver.settings import GuestSettings
from tests.probes.ping_pong import PingPong

TRANSMITQ = 1
EVENT_IDX = Feature.VERSION_1 | Feature.EVENT_IDX
# Small rings, so that indices and wrap counters wrap often; packed ones also of sizes other than 2^n.
RINGS = {"split": (EVENT_IDX, 8), "packed": (EVENT_IDX | Feature.RING_PACKED, 7)}
SEED = 20261123
SECONDS = 3600.0
STALL_SECONDS = 1.0


@contextlib.contextmanager
def ping_pong(features: Feature, size: int, seed: int = SEED, **options: object) -> Iterator[PingPong]:
    """A guest's transmitq and its port, which has no worker."""
    settings = GuestSettings(queue_size=size, huge=False)
    device = GuestDevice(settings, features=int(features), tag=1, peer_tag=2)
    port = VirtioPort("a", Door())
    ram = device.ram
    mapping = Mapping(ram.fd, ram.guest_addr, ram.bytes, ram.user_addr, 0)
    port.set_features(int(features))
    port.set_memory(GuestMemory([mapping]))
    desc, avail, used = device.ring_addresses(TRANSMITQ)
    port.start_queue(TRANSMITQ, QueueSetup(size, desc, avail, used, device.base))
    try:
        yield PingPong(device, port, seed=seed, **options)  # type: ignore[arg-type]
    finally:
        port.close()
        mapping.close()
        device.close()


def play(game: PingPong, rounds: int, seconds: float) -> int:
    """Run both ends for this many rounds, or until the time is over.

    Returns the status of the ring, 0 if it is not broken.
    """
    status: list[int] = []
    serving = threading.Thread(target=lambda: status.append(game.serve()))
    driving = threading.Thread(target=game.drive, args=(rounds,))
    serving.start()
    driving.start()
    driving.join(seconds)
    game.stop()
    driving.join(10)
    serving.join(10)
    return status[0]


def measure(ring: str, rounds: int, seed: int) -> dict[str, object]:
    features, size = RINGS[ring]
    begin = time.monotonic()
    with ping_pong(features, size, seed, stall_seconds=STALL_SECONDS) as game:
        status = play(game, rounds, SECONDS)
        stalls = game.driver_stalls + game.device_stalls
        sleeps = game.driver_sleeps + game.device_sleeps
        longest = max(game.driver_longest_ns, game.device_longest_ns) / 1e9
        done = game.rounds
    taken = time.monotonic() - begin
    print(
        f"{ring}, event idx: {done} ping-pongs in {taken:.0f} s, {sleeps} sleeps, the longest {longest:.3f} s, "
        f"{stalls} of them over a second with something to do",
        flush=True,
    )
    if status or done != rounds:
        raise SystemExit(f"{ring}: the ring has status {status} after {done} of {rounds} ping-pongs")
    return {
        "bench": f"wake-ups lost, {ring}, event idx", "unit": "stalls over 1 s", "median": stalls, "ping_pongs": done,
        "sleeps": sleeps, "longest_sleep_s": round(longest, 4), "seconds": round(taken), "seed": seed,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.wake_ups", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10_000_000)
    parser.add_argument("--ring", choices=(*RINGS, "both"), default="both")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--no-record", action="store_true")
    o = parser.parse_args()
    figures = [measure(ring, o.rounds, o.seed) for ring in (RINGS if o.ring == "both" else [o.ring])]
    if not o.no_record:
        write("wake-ups", figures)
    return 1 if any(figure["median"] for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())

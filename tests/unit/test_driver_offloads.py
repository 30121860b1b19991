"""Built-in guests that leave checksums and segments to their cards, and what arrives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.rig import POLLED, USUAL_FEATURES, Rig, rig
from fastvhost.driver import offload
from fastvhost.driver.device import GuestDevice
from fastvhost.driver.frontend import Feature

SUMS = Feature.CSUM | Feature.GUEST_CSUM
SEGMENTS = SUMS | Feature.HOST_TSO4 | Feature.GUEST_TSO4
FORMATS = {"split": Feature(0), "packed": Feature.RING_PACKED}
WHOLE = replace(POLLED, content="whole", queue_size=256)


def exchange(r: Rig, rounds: int = 20) -> None:
    """Frames both ways, and the guests empty their rings."""
    for _ in range(rounds):
        r.load.step()
        r.worker.step()
    r.load.drain()
    for _ in range(1000):
        if not r.load.step() + r.worker.step():
            return
    pytest.fail("frames without end")


def nothing_went_wrong(r: Rig) -> None:
    for device, peer in (r.devices, r.devices[::-1]):
        frames, n_bytes, *wrong = device.received
        assert (frames, n_bytes) == peer.sent
        assert frames > 100
        assert wrong == [0, 0, 0, 0]


@pytest.mark.parametrize("ring", FORMATS)
@pytest.mark.parametrize("size", [70, 86, 1518, 9000])
@pytest.mark.parametrize("receives", [SUMS, Feature.CSUM], ids=["passed on", "filled in"])
def test_frames_that_ask_for_their_checksum_arrive_whole(ring: str, size: int, receives: Feature) -> None:
    settings = replace(WHOLE, sizes=(size,), asks="checksum")
    with rig(settings, features=USUAL_FEATURES | FORMATS[ring] | receives) as r:
        exchange(r)
        nothing_went_wrong(r)


@pytest.mark.parametrize("ring", FORMATS)
@pytest.mark.parametrize("pieces", [1, 4])
@pytest.mark.parametrize("buffers", [2048, 4096, 16384, 0], ids=["2 KiB", "4 KiB", "16 KiB", "one chain"])
def test_super_frames_arrive_whole_in_any_buffers(ring: str, pieces: int, buffers: int) -> None:
    features = USUAL_FEATURES | FORMATS[ring] | SEGMENTS
    if not buffers:
        features &= ~Feature.MRG_RXBUF
    settings = replace(WHOLE, sizes=(65226,), asks="segments", pieces=pieces, buffer_bytes=buffers or 2048)
    with rig(settings, features=features) as r:
        exchange(r, rounds=60)
        nothing_went_wrong(r)


@pytest.mark.parametrize("ring", FORMATS)
def test_a_super_frame_that_is_cut_arrives_as_45_frames(ring: str) -> None:
    payload = 65226 - 54
    settings = replace(WHOLE, content="none", sizes=(65226,), asks="segments")
    features = USUAL_FEATURES | FORMATS[ring] | SEGMENTS & ~Feature.GUEST_TSO4
    with rig(settings, features=features, both_ways=False) as r:
        exchange(r)
        sent, sent_bytes = r.devices[0].sent
        pieces = -(-payload // offload.SEGMENT_BYTES)
        assert pieces == 45
        assert r.devices[1].received[:2] == (sent * pieces, sent_bytes + sent * (pieces - 1) * 54)


@pytest.mark.parametrize(
    ("wrong", "features", "words"),
    [
        ({"asks": "favours"}, SUMS, "asks for 'favours': give one of nothing, checksum, segments"),
        ({"asks": "checksum"}, Feature(0), "asks for checksum without CSUM"),
        ({"asks": "segments"}, SUMS, "asks for segments without HOST_TSO4"),
        ({"asks": "checksum", "sizes": (60,)}, SUMS, "frames of 60 bytes: with asks= give 70 or more"),
        ({"asks": "segments", "sizes": (70, 9000)}, SEGMENTS, "of two kinds"),
        ({"asks": "segments", "sizes": (9000,)}, SEGMENTS & ~Feature.GUEST_TSO4, "that are cut"),
        ({"buffer_bytes": 100}, Feature(0), "receive buffers of 100 bytes: give 128"),
    ],
)
def test_what_no_guest_can_do_is_refused_in_words(wrong: dict[str, object], features: Feature, words: str) -> None:
    settings = replace(WHOLE, huge=False, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=words):
        GuestDevice(settings, features=int(USUAL_FEATURES | features), tag=1, peer_tag=2)

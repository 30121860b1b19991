"""How built-in guests are made and what they send: of a guest, and of a pair of them."""

from __future__ import annotations

from dataclasses import dataclass

from fastvhost.driver.frontend import Feature

# The "simple IMIX" of seven short, four middle and one long frame, shuffled once for good.
IMIX = (64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 594, 64)


@dataclass(frozen=True, kw_only=True)
class GuestSettings:
    """A guest's rings, and the frames that it sends."""

    queue_size: int = 1024
    """Descriptors of each ring: 2 to 32768, a power of two unless packed."""
    queues: int = 1
    """Queue pairs, all of them flooded. A back-end that has fewer is an error."""
    sizes: tuple[int, ...] = (64,)
    """Ethernet bytes of its frames, in turn, without the frame check sequence: 60 at the least."""
    content: str = "numbers"
    """"none" sends frames as they are, "numbers" numbers each and checks number, length and a check word, "whole" fills
    and checks every byte."""
    pieces: int = 1
    """Descriptors per sent frame, header included; 1 is one buffer with the header in front."""
    asks: str = "nothing"
    """What both guests leave to their network cards, one of offload.ASKS: frames are of TCP then."""
    buffer_bytes: int = 2048
    """Of a receive buffer, where buffers are mergeable: 128 at the least. Others hold any frame of the peer's."""
    kick: bool = True
    """Notify the device when it asks for it. False: only when a ring starts, for a device that polls."""
    huge: bool = True
    """Its memory has huge pages where this machine gives them."""


@dataclass(frozen=True, kw_only=True)
class PairSettings(GuestSettings):
    """Two guests, A and B, that send to each other. Features that the back-end does not offer are not used."""

    both_ways: bool = True
    """B sends too."""
    mergeable: bool = True
    indirect: bool = False
    """The pieces of a frame stand in a table of descriptors."""
    event_idx: bool = True
    version_1: bool = True
    packed: bool = False
    in_order: bool = False
    sleeps: bool = False
    """The guests' thread blocks until it is notified while it has nothing to do; else it never sleeps."""
    core: int | None = None
    """The CPU that their thread is pinned to."""
    listen: bool = False
    """The guests listen on the sockets and the back-end connects."""
    timeout: float = 10.0
    """Seconds that a back-end may take to be there, and to answer."""

    @property
    def wish(self) -> Feature:
        """The features to ask the back-end for."""
        wish = Feature.PROTOCOL_FEATURES
        for wanted, feature in (
            (self.mergeable, Feature.MRG_RXBUF),
            (self.indirect, Feature.INDIRECT_DESC),
            (self.event_idx, Feature.EVENT_IDX),
            (self.version_1, Feature.VERSION_1),
            (self.packed, Feature.RING_PACKED),
            (self.in_order, Feature.IN_ORDER),
            (self.queues > 1, Feature.MQ),
            (self.asks != "nothing", Feature.CSUM | Feature.GUEST_CSUM),
            (self.asks == "segments", Feature.HOST_TSO4 | Feature.GUEST_TSO4),
        ):
            wish |= feature if wanted else Feature(0)
        return wish


USUAL_PAIR = PairSettings()

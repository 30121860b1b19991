"""Who touches a packet on each of the five paths: one SVG per path and language, as the deck draws it.

Readable on light and dark pages: translucent greys and middle tones, and brighter text where the reader prefers dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from xml.sax.saxutils import escape

from bench.japanese import JAPANESE

Point: TypeAlias = tuple[float, float]
WIDTH, HEIGHT = 860, 458
STYLE = """
text { fill: #57606a; font-family: sans-serif; font-size: 13px }
.name { font-weight: bold }
.small { font-size: 11.5px }
.box { fill: #8080801c; stroke: #808080 }
.idle { fill: none; stroke: #808080; stroke-dasharray: 4 4 }
.band { fill: #80808010 }
.control { stroke: #808080; stroke-width: 1.3; stroke-dasharray: 2 4; fill: none }
.in { stroke: #3fa45b } .out { stroke: #2f81f7 }
.way { fill: none; stroke-width: 2.5 }
.in-fill { fill: #3fa45b } .out-fill { fill: #2f81f7 }
text.number { fill: #ffffff; font-weight: bold; font-size: 12px }
@media (prefers-color-scheme: dark) { text { fill: #c9d1d9 } }
"""

@dataclass(frozen=True)
class Figure:
    """What was measured of a path at one place."""

    place: str
    into: float
    out: float
    round_trip: float
    cpu: Mapping[str, float]


@dataclass
class Drawing:
    """One picture in one language."""

    title: str
    words: Mapping[str, str]
    parts: list[str] = field(default_factory=list)

    def say(self, text: str) -> str:
        return self.words.get(text, text)

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        kind = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}"{kind} text-anchor="{anchor}">{escape(self.say(text))}</text>')

    def box(self, x: float, y: float, width: float, height: float, *lines: str, kind: str = "box") -> None:
        """A box with lines of text from its top, the first its name. Ways pass to the right of the text, or below."""
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" class="{kind}"/>')
        for n, line in enumerate(lines):
            self.text(x + 10, y + 19 + 17 * n, line, "small" if n else "name")

    def way(self, direction: str, points: Sequence[Point], copies: Mapping[int, Point]) -> None:
        """A packet's way, with an arrow at its end and a numbered dot where it is copied."""
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        self.parts.append(f'<path d="{path}" class="way {direction}" marker-end="url(#{direction})"/>')
        for number, (x, y) in copies.items():
            self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="9" class="{direction}-fill"/>')
            self.parts.append(f'<text x="{x:g}" y="{y + 4.2:g}" class="number" text-anchor="middle">{number}</text>')

    def control(self, points: Sequence[Point]) -> None:
        """A line for what sets the path up and carries no packet."""
        self.parts.append(f'<path d="M{"L".join(f"{x:g} {y:g}" for x, y in points)}" class="control"/>')

    def svg(self) -> str:
        markers = "".join(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="4.5" markerHeight="4.5" '
            f'orient="auto"><path d="M0 0L8 4L0 8Z" class="{name}-fill"/></marker>'
            for name in ("in", "out")
        )
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">'
        body = [head, f"<title>{escape(self.title)}</title>", f"<style>{STYLE}</style>", f"<defs>{markers}</defs>"]
        return "\n".join([*body, *self.parts, "</svg>"]) + "\n"


COPIES = {1: (4, 3), 2: (3, 3), 3: (3, 2), 4: (1, 1), 5: (1, 1)}
"""How many copies each path makes: towards App1, and towards the guest."""


def draw(path: int, title: str, figures: Sequence[Figure], japanese: bool = False) -> str:
    """The picture of one path, its figures in it."""
    d = Drawing(title, JAPANESE if japanese else {})
    d.text(16, 24, f"{path}. {title}", "name")
    d.parts.append(f'<rect x="8" y="38" width="{WIDTH - 16}" height="190" rx="8" class="band"/>')
    d.parts.append(f'<rect x="8" y="238" width="{WIDTH - 16}" height="104" rx="8" class="band"/>')
    d.text(WIDTH - 20, 56, "user space", "small", "end")
    d.text(258, 337, "kernel", "small")
    cpu = figures[0].cpu if figures else {}

    def spent(name: str) -> str:
        return f"{cpu[name]:.3g} s" if name in cpu else ""

    # App1, and the guest in its QEMU: where they are on every path.
    d.box(24, 64, 232, 152)
    d.box(40, 74, 200, 50, f"App1 {spent('app1')}", "its buffers")
    way_in = "over libpcap" if path < 4 else "maps the guest's memory"
    d.box(40, 156, 200, 50, f"fastvhost {spent('fastvhost')}", way_in)
    d.box(384, 64, 452, 152, f"QEMU {spent('qemu_rest')}")
    d.box(628, 74, 196, 132, f"{d.say('the guest')} {spent('qemu_guest')}",
          "e1000 driver" if path == 1 else "virtio-net driver")  # fmt: skip
    d.box(642, 122, 168, 74, "guest memory", "rings and buffers")
    if path <= 2:
        _through_qemu(d, path)
    elif path == 3:
        _through_vhost_net(d, spent("kernel_thread"))
    else:
        _memory_to_memory(d, path)
    _figures(d, path, figures)
    return d.svg()


def _kernel_side(d: Drawing) -> None:
    d.box(40, 250, 200, 80, "packet socket", "and its ring")
    d.box(394, 250, 180, 80, "tap", "queue of skbs")


def _through_qemu(d: Drawing, path: int) -> None:
    d.box(394, 122, 180, 74, "e1000, emulated" if path == 1 else "virtio-net", "QEMU's buffer")
    _kernel_side(d)
    # A dot stands where a packet is copied. The tap and the packet socket share one skb: no copy between them.
    copies = [(608, 144), (530, 233), (317, 304), (224, 140)]
    d.way("in", [(642, 144), (530, 144), (530, 304), (224, 304), (224, 127)],
          dict(enumerate(copies if path == 1 else copies[1:], 1)))  # fmt: skip
    d.way("out", [(200, 124), (200, 320), (556, 320), (556, 178), (639, 178)],
          {1: (200, 233), 2: (556, 233), 3: (608, 178)})  # fmt: skip


def _through_vhost_net(d: Drawing, spent: str) -> None:
    d.box(394, 122, 180, 74, "virtio-net", "off the packet's way", kind="idle")
    _kernel_side(d)
    d.box(628, 262, 196, 68, f"vhost-net {spent}", "kernel thread")
    d.way("in", [(772, 196), (772, 304), (224, 304), (224, 127)], {1: (772, 233), 2: (317, 304), 3: (224, 140)})
    d.way("out", [(200, 124), (200, 320), (796, 320), (796, 199)], {1: (200, 233), 2: (796, 233)})


def _memory_to_memory(d: Drawing, path: int) -> None:
    if path == 4:
        d.box(286, 262, 236, 56, "/dev/fastvhost-a: CUSE", "ioctl: rings, memory, eventfds", kind="idle")
    else:
        d.box(286, 262, 236, 56, "vhost-user socket", "rings, memory, eventfds", kind="idle")
    d.text(394, 100, "off the packet's way", "small")
    d.control([(140, 206), (140, 290), (286, 290)])
    d.control([(522, 290), (600, 290), (600, 216)])
    d.way("in", [(642, 176), (300, 176), (300, 112), (243, 112)], {1: (470, 176)})
    d.way("out", [(240, 88), (330, 88), (330, 140), (639, 140)], {1: (470, 140)})


def _figures(d: Drawing, path: int, figures: Sequence[Figure]) -> None:
    top = 366
    into, out = COPIES[path]
    d.text(210, top, "guest → App1", "name")
    d.text(430, top, "App1 → guest", "name")
    d.text(650, top, "round trip", "name")
    d.parts.append(f'<rect x="192" y="{top - 10}" width="12" height="10" class="in-fill"/>')
    d.parts.append(f'<rect x="412" y="{top - 10}" width="12" height="10" class="out-fill"/>')
    d.text(210, top + 18, d.say("copies: {}").format(into), "small")
    d.text(430, top + 18, d.say("copies: {}").format(out), "small")
    for n, figure in enumerate(figures):
        y = top + 38 + 18 * n
        d.text(24, y, figure.place, "small")
        d.text(210, y, f"{figure.into:,.0f} {d.say('frames/s')}")
        d.text(430, y, f"{figure.out:,.0f} {d.say('frames/s')}")
        d.text(650, y, f"{figure.round_trip:,.0f} µs")
    if figures:
        place = d.say(figures[0].place)
        note = d.say("Seconds behind a name: CPU time per million frames, guest → App1, {}")
        d.text(24, top + 84, note.format(place), "small")
    else:
        d.text(24, top + 38, "not recorded", "small")

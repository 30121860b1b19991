"""`fastvhost top` on a terminal: readings, keys and signals in, lines out."""

from __future__ import annotations

import select
import time
from typing import Any

from fastvhost.cli.live.asker import Asker, Source, Told
from fastvhost.cli.live.choice import Choice
from fastvhost.cli.live.drops import RecentDrops
from fastvhost.cli.live.keys import Keys
from fastvhost.cli.live.picture import Scene, lines
from fastvhost.cli.live.rows import Reading, reading
from fastvhost.cli.live.terminal import EndedBySignal, Terminal
from fastvhost.cli.output import printable
from fastvhost.control import control_client
from fastvhost.control.errors import RuntimeFailure

ESCAPE_SECONDS = 0.1
"""After an escape by itself: over a slow line the rest of a sequence may come later."""
TICK_SECONDS = 1.0
AGAIN_SECONDS = 0.05
"""Until the next attempt to draw, where the terminal takes nothing."""
LATE_SECONDS = 2.0
"""Beyond the time between readings: then the lack of one is said."""


class Newest:
    """The newest reading, also while another one stays on the screen."""

    def __init__(self, answer: Any, now: float) -> None:
        self._before = answer
        self.newest: Reading = control_client.understood(lambda answer: reading(answer, None), answer)
        self.drops = RecentDrops()
        self.trouble = ""
        self.at = now

    def take(self, told: Told) -> None:
        """An answer, or why there is none."""
        if not told.trouble:
            try:
                self.newest = control_client.understood(lambda now: reading(now, self._before), told.answer)
            except RuntimeFailure as error:
                told = Told(told.at, trouble=str(error))
        self.trouble = told.trouble
        if told.trouble:
            return
        self._before, self.at = told.answer, told.at
        self.drops.note(self.newest, told.at)

    def lack(self, now: float, every: float) -> str:
        """What is to be said where figures are old; else empty."""
        age = now - self.at
        if not self.trouble and age <= every + LATE_SECONDS:
            return ""
        why = printable(self.trouble) if self.trouble else "fwd may be stopped"
        return f"no answer for {age:.0f} s, still trying: {why}"


def watch(source: Source, choice: Choice) -> int:
    """Until a key or a signal ends it. Raises FastvhostError where fwd does not answer at first."""
    figures = Newest(source.ask(), time.monotonic())
    try:
        with Terminal() as terminal, Asker(source, choice.every) as asker:
            _run(terminal, asker, source, figures, choice)
    except EndedBySignal:
        pass
    return 0


def _run(terminal: Terminal, asker: Asker, source: Source, figures: Newest, choice: Choice) -> None:
    keys = Keys()
    shown, drops = figures.newest, figures.drops.list()
    poller = select.poll()
    typed, woken = terminal.filenos
    for fd in (typed, woken, asker.fileno()):
        poller.register(fd, select.POLLIN)
    while not choice.ended:
        if not choice.paused:
            shown, drops = figures.newest, figures.drops.list()
        lack = figures.lack(time.monotonic(), choice.every)
        if choice.redraw:
            terminal.forget()
            choice.redraw = False
        takes = terminal.takes
        if takes:
            terminal.draw(lines(Scene(shown, drops, choice, str(source.path), lack), *terminal.size()))
        pause = ESCAPE_SECONDS if keys.waits else TICK_SECONDS if takes else AGAIN_SECONDS
        ready = dict(poller.poll(pause * 1000))
        if woken in ready:
            terminal.hear()
        for told in asker.take():
            figures.take(told)
        if typed in ready:
            data = terminal.read()
            if data is None:
                return
            pressed = keys.feed(data)
        else:
            pressed = keys.end()
        for key in pressed:
            choice.press(key)
        asker.change(choice.every)

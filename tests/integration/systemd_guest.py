"""A guest under user-mode Linux whose first process is this machine's own systemd. It starts in about three seconds."""

from __future__ import annotations

import socket
import sys
import sysconfig
from pathlib import Path

from bench.guests.agent import ObedientGuest
from bench.guests.newest import LIBRARIES, newest
from bench.guests.uml import SCRIPTS

MEMORY_SIZE = "512M"
ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "systemd"


class SystemdGuest(ObedientGuest):
    """`run` commands in it, as root. /run/shared there is `directory`; fastvhost is in /opt/fastvhost."""

    def __init__(self, directory: Path) -> None:
        uml = newest("uml")
        ours, its = socket.socketpair()
        with its:
            command = [
                "env", f"LD_LIBRARY_PATH={uml / LIBRARIES}", "TMPDIR=/dev/shm", str(uml / "usr/bin/linux.uml"),
                f"mem={MEMORY_SIZE}", f"uml_dir={directory}", "umid=systemd.uml",
                "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={SCRIPTS / 'uml' / 'init-systemd'}",
                "con=null", "con0=null,fd:1", "ssl=null", f"ssl0=fd:{its.fileno()}", "quiet",
                f"guest_agent={SCRIPTS / 'guest' / 'agent'}", f"guest_shared={directory}",
                f"guest_python={sys.base_prefix}", f"guest_lib={ROOT / 'fastvhost'}",
                f"guest_site={sysconfig.get_path('platlib')}",
            ]  # fmt: skip
            super().__init__("systemd", command, directory, pass_fds=[its.fileno()], channel=ours)

    def stop(self, seconds: float = 5.0) -> int:
        """At once: it keeps nothing, and at SIGTERM this kernel stops where it is."""
        self.popen.kill()
        return self.popen.wait(seconds)

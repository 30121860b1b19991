"""The units of deploy/systemd, started by a real systemd: this machine's own, in a guest under user-mode Linux."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.fwd import BUSY_MACHINE
from bench.guests.short_dir import short_dir
from bench.guests.waits import wait_until
from tests.integration.systemd_guest import DEPLOY, ROOT, SystemdGuest

UNIT = "fastvhost@test"
FILE = "/etc/fastvhost/test.toml"
SOCKETS = "/run/fastvhost"
LISTENING = ["a.sock", "b.sock", "fwd-test.sock"]
PYTHON = "/opt/python/bin/python3"
HOLD = Path(__file__).with_name("hold_thread.py")
# Of a machine with one core, which is busy: no fault of the service.
ONE_CORE = "core 0 is the only one allowed"
EXPECTED = re.compile(f"{ONE_CORE}|{BUSY_MACHINE.pattern}")
DROP_IN = f"/run/systemd/system/{UNIT}.service.d"
WATCHDOG_SECONDS = 3
# As the documentation says.
INSTALL = f"""
install -D -m 644 -t /etc/systemd/system {DEPLOY}/fastvhost@.service
install -D -m 644 -t /etc/systemd/user {DEPLOY}/user/fastvhost@.service
install -D -m 644 -t /etc/sysusers.d {DEPLOY}/sysusers.d/fastvhost.conf
install -D -m 644 -t /etc/tmpfiles.d {DEPLOY}/tmpfiles.d/fastvhost.conf
systemd-sysusers
systemd-tmpfiles --create fastvhost.conf
systemctl daemon-reload
"""


class Machine:
    """A machine with the service installed."""

    def __init__(self, guest: SystemdGuest) -> None:
        self.guest = guest
        self.run(" && ".join(INSTALL.strip().splitlines()))

    def run(self, command: str, seconds: float = 30) -> str:
        return self.guest.run(command, seconds).strip()

    def configure(self, *names: str) -> None:
        """Write the file: ports of these names."""
        self.run(f"printf '%s\\n' '{ports(*names)}' 'idle = \"interrupt\"' > {FILE}")

    def start(self) -> None:
        """Start the service with ports a and b, unless it runs with them."""
        if self.state() == "active" and self.sockets() == LISTENING:
            return
        self.run(f"systemctl stop {UNIT}")
        self.configure("a", "b")
        self.run(f"systemctl start {UNIT}")

    def state(self) -> str:
        return self.run(f"systemctl is-active {UNIT}; true")

    def property(self, name: str) -> str:
        return self.run(f"systemctl show -p {name} --value {UNIT}")

    def sockets(self) -> list[str]:
        return [name for name in self.run(f"ls {SOCKETS}").split() if name.endswith(".sock")]

    def journal(self, *matches: str) -> list[dict[str, str]]:
        """Entries of the service's present run that match."""
        invocation = self.property("InvocationID")
        words = f"_SYSTEMD_INVOCATION_ID={invocation} {' '.join(matches)}"
        return [json.loads(line) for line in self.run(f"journalctl -o json {words}").splitlines()]


def ports(*names: str) -> str:
    """The line of a configuration file."""
    return f"port = {json.dumps([f'{SOCKETS}/{name}.sock' for name in names])}"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with short_dir() as directory, SystemdGuest(directory) as guest:
        guest.wait_ready(60)
        yield Machine(guest)


def test_the_service_is_active_once_all_its_ports_listen(machine: Machine) -> None:
    machine.start()
    assert machine.sockets() == LISTENING
    assert machine.state() == "active"
    assert machine.property("Type") == "notify"
    assert machine.property("StatusText").startswith("0 of 2 ports up (a, b down)")
    listed = machine.run(f"stat -c '%a %U %G' {SOCKETS}/a.sock")
    assert listed == "660 fastvhost kvm"


def test_frames_cross_and_nothing_that_fwd_wants_is_forbidden(machine: Machine) -> None:
    machine.start()
    guests = f"{PYTHON} -m bench.guest_load {SOCKETS}/a.sock {SOCKETS}/b.sock --packed --sleeps"
    # They go on until the end of their input.
    said = machine.run(f"cd {ROOT} && sleep 2 | env PYTHONPATH=/opt/fastvhost/site {guests}")
    final = json.loads(said.splitlines()[-1])["final"]
    for way in ("a_to_b", "b_to_a"):
        assert final[way]["frames"] == final[way]["sent_frames"] > 0
        assert final[way]["lost"] == final[way]["corrupt"] == 0
    complaints = [entry["MESSAGE"] for entry in machine.journal() if int(entry["PRIORITY"]) <= 4]
    assert [text for text in complaints if not EXPECTED.search(text)] == []
    status = machine.run(f"cat /proc/{machine.property('MainPID')}/status")
    assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)


def test_its_exposure_is_below_three(machine: Machine) -> None:
    machine.start()
    said = machine.run(f"systemd-analyze security {UNIT} | tail -n 1")
    found = re.search(r"exposure level for .*: ([\d.]+)", said)
    assert found is not None
    assert float(found[1]) < 3.0


def test_lines_of_the_journal_have_severities_and_fields(machine: Machine) -> None:
    machine.start()
    listening = machine.journal("FASTVHOST_PORT=a")[0]
    assert listening["MESSAGE"] == f"port a: listening on {SOCKETS}/a.sock"
    assert (listening["PRIORITY"], listening["FASTVHOST_ABOUT"], listening["SYSLOG_IDENTIFIER"]) == (
        "6",
        "steps",
        "fastvhost",
    )
    warned = machine.journal("PRIORITY=4")
    assert any(ONE_CORE in entry["MESSAGE"] for entry in warned)


def test_a_reload_puts_a_changed_file_into_effect_and_fails_where_the_file_is_wrong(machine: Machine) -> None:
    machine.start()
    pid = machine.property("MainPID")
    machine.configure("a", "c")
    machine.run(f"systemctl reload {UNIT}")
    assert machine.sockets() == ["a.sock", "c.sock", "fwd-test.sock"]
    machine.configure("a", "a")
    assert "failed" in machine.run(f"systemctl reload {UNIT} 2>&1 || true")
    assert machine.sockets() == ["a.sock", "c.sock", "fwd-test.sock"]
    assert machine.state() == "active"
    errors = [entry["MESSAGE"] for entry in machine.journal() if "2 ports are called 'a'" in entry["MESSAGE"]]
    assert len(errors) == 1
    assert machine.property("MainPID") == pid


def test_sighup_is_a_reload_as_systemd_sees_it(machine: Machine) -> None:
    # As the test before left it, or with a and b.
    if machine.state() != "active":
        machine.start()
    pid = machine.property("MainPID")
    machine.configure("a", "b")
    machine.run(f"kill -HUP {pid}")
    wait_until("port b", 20, lambda: machine.sockets() == LISTENING)
    machine.configure("a", "d")
    machine.run(f"kill -HUP {pid}")
    wait_until("port d", 20, lambda: machine.sockets() == ["a.sock", "d.sock", "fwd-test.sock"])
    machine.configure("a", "b")
    machine.run(f"kill -HUP {pid}")
    wait_until("port b", 20, lambda: machine.sockets() == LISTENING)
    wait_until("the end of the reload", 20, lambda: machine.state() == "active")
    assert "port d added" in [entry["MESSAGE"].partition(":")[0] for entry in machine.journal()]


def test_a_worker_that_is_stuck_has_the_service_restarted_and_one_without_frames_has_not(machine: Machine) -> None:
    machine.run(f"systemctl stop {UNIT} && mkdir -p {DROP_IN}")
    machine.run(f"printf '[Service]\\nWatchdogSec={WATCHDOG_SECONDS}\\n' > {DROP_IN}/watchdog.conf")
    machine.run("systemctl daemon-reload")
    machine.start()
    pid, run = machine.property("MainPID"), machine.property("InvocationID")
    machine.run(f"sleep {WATCHDOG_SECONDS + 1}")
    assert (machine.property("MainPID"), machine.property("NRestarts")) == (pid, "0")
    machine.run(f"{PYTHON} {HOLD} {pid} fv-worker0")
    wait_until("the restart", 20, lambda: machine.property("NRestarts") == "1")
    wait_until("the service", 20, lambda: machine.state() == "active")
    assert machine.property("MainPID") != pid
    assert machine.sockets() == LISTENING
    last = machine.run(f"journalctl -o json FASTVHOST_WORKER=worker0 _SYSTEMD_INVOCATION_ID={run}")
    (stuck,) = map(json.loads, last.splitlines())
    assert (stuck["PRIORITY"], stuck["FASTVHOST_ABOUT"]) == ("3", "stuck")
    sentence = r"worker0 has made no round for \d s, it waits in the kernel, or loops; systemd restarts fwd"
    assert re.match(sentence, stuck["MESSAGE"])
    machine.run(f"rm -r {DROP_IN} && systemctl daemon-reload")


def test_a_stop_is_clean(machine: Machine) -> None:
    machine.start()
    machine.run(f"systemctl stop {UNIT}", 10)
    assert (machine.property("ActiveState"), machine.property("Result")) == ("inactive", "success")
    assert machine.property("ExecMainStatus") == "0"
    assert machine.sockets() == []


def test_wrong_configuration_is_not_tried_again(machine: Machine) -> None:
    machine.run(f"systemctl stop {UNIT}")
    machine.configure("a")
    assert "failed" in machine.run(f"systemctl start {UNIT} 2>&1 || true")
    assert machine.property("ExecMainStatus") == "2"
    (error,) = [entry for entry in machine.journal() if entry["MESSAGE"].startswith("fastvhost: ")]
    assert error["PRIORITY"] == "3"
    machine.run("sleep 0.5")  # RestartSec=250ms
    assert (machine.property("ActiveState"), machine.property("NRestarts")) == ("failed", "0")


def test_a_user_has_a_service_without_root(machine: Machine) -> None:
    machine.run("echo 'u operator 1234 - /run/operator /bin/sh' | systemd-sysusers -")
    machine.run("systemctl start user@1234")
    home, place = "/run/operator", "/run/user/1234"
    folders = [home, *(f"{home}/{name}" for name in (".config", ".config/fastvhost", ".local", ".local/bin"))]
    machine.run(f"install -d -o operator {' '.join(folders)}")
    machine.run(f"ln -s /opt/fastvhost/bin/fastvhost {home}/.local/bin/fastvhost")
    line = f'port = ["{place}/fastvhost/a.sock", "{place}/fastvhost/b.sock"]'
    machine.run(f"printf '%s\\n' '{line}' > {home}/.config/fastvhost/test.toml")
    as_user = f"setpriv --reuid operator --regid operator --init-groups env HOME={home} XDG_RUNTIME_DIR={place}"

    def systemctl(*words: str) -> str:
        return machine.run(f"{as_user} systemctl --user {' '.join(words)} {UNIT}")

    systemctl("start")
    assert systemctl("is-active") == "active"
    assert systemctl("show -p StatusText --value").startswith("0 of 2 ports up")
    assert machine.run(f"stat -c %U {place}/fastvhost/a.sock") == "operator"
    systemctl("reload")
    fields = machine.run("journalctl -o json _UID=1234 FASTVHOST_PORT=a").splitlines()
    assert json.loads(fields[0])["MESSAGE"] == f"port a: listening on {place}/fastvhost/a.sock"
    systemctl("stop")
    assert systemctl("show -p Result --value") == "success"
    assert machine.run(f"ls {place}/fastvhost") == ""

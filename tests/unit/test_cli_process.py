"""A real fwd: how it starts, what it says, how it ends, and what the other verbs learn from it."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.backend.qemu import reconnect
from fastvhost.control.installed import qemu_version
from fastvhost.driver.guests import Guests, PairSettings
from tests.idle_cost import comes_to_rest
from tests.own_time import OwnTime, stolen_seconds, waited_seconds
from tests.unit.forwarder import ENVIRONMENT, FASTVHOST, Forwarder, fastvhost, forwarder

START_SECONDS = 1.0
RESIDENT_KIB = 64 * 1024
END_SECONDS = 2.0


HOLDS = ("--hold-timeout", "10s")
"""Guests that do not run for a while lose nothing."""


def frames_pass(guests: Guests, n: int = 1000) -> None:
    """Until so many frames have arrived."""
    wait_until(f"{n} frames", MAX_WAIT, lambda: guests.counters().frames > n)


def kib(pid: int, key: str) -> int:
    match = re.search(rf"^{key}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match
    return int(match[1])


def test_it_listens_within_a_second_and_stays_small() -> None:
    took: list[float] = []
    while not took or min(took) > START_SECONDS:  # the shortest one is without waits for a CPU
        assert len(took) < 10, took
        start, stolen = time.monotonic(), stolen_seconds()
        with forwarder() as fwd:
            without_cpu = waited_seconds(Path(f"/proc/{fwd.process.pid}")) + stolen_seconds() - stolen
            took.append(time.monotonic() - start - without_cpu)
            assert kib(fwd.process.pid, "VmHWM") < RESIDENT_KIB


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 0)])
def test_a_signal_ends_it_in_time_with_its_counters_printed_and_its_sockets_gone(
    number: signal.Signals, code: int
) -> None:
    with forwarder() as fwd:
        assert {path.name for path in fwd.directory.glob("*.sock")} == {"a.sock", "b.sock", "control.sock"}
        got, took = fwd.end(number)
        assert got == code
        assert took < END_SECONDS
        assert list(fwd.directory.glob("*.sock")) == []
        assert fwd.out.startswith("port ")
        assert fwd.log.splitlines()[-1].endswith(" stopped")
        assert fwd.warnings == []


def test_a_signal_under_load_ends_it_in_time_and_no_frame_is_broken() -> None:
    with forwarder() as fwd:
        guests = Guests(*fwd.sockets)
        guests.start()
        frames_pass(guests)
        code, took = fwd.end()
        counters = guests.counters()
        guests.stop()
        assert (code, counters.corrupt, counters.duplicated, counters.reordered) == (0, 0, 0, 0)
        assert took < END_SECONDS
        assert counters.frames > 0


def test_a_normal_run_says_each_step_once_and_nothing_that_alarms() -> None:
    with forwarder() as fwd:
        with Guests(*fwd.sockets):
            fwd.wait_log("port a: first packet")
        for name in "ab":
            fwd.wait_log(f"port {name}: disconnected")
        assert fwd.end()[0] == 0
        steps = [line.split("port a: ", 1)[1] for line in fwd.log.splitlines() if "port a: " in line]
        words = [
            "listening on",
            "connected",
            "features ",
            "memory ",
            "rings 0 1",
            "first packet",
            "rings stop",
            "disconnected",
        ]
        assert len(steps) == len(words)
        assert all(step.startswith(word) for step, word in zip(steps, words, strict=True)), steps
        assert fwd.warnings == []
        assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} ", line) for line in fwd.log.splitlines())


def test_an_internal_error_in_the_figures_is_logged_once_and_ends_nothing() -> None:
    defect = "from fastvhost.cli import render\nfrom fastvhost.control.stats import History\n"
    defect += "History.tick = render.stats = lambda _: 1 / 0"
    with forwarder("--stats-period", "0.1", defect=defect) as fwd:
        fwd.wait_log("the periodic figures: internal error ZeroDivisionError")
        with Guests(*fwd.sockets) as guests:
            frames_pass(guests)
            time.sleep(0.3)  # and figures are due, more than once
        assert fwd.end()[0] == 0
        assert list(fwd.directory.glob("*.sock")) == []
        assert fwd.log.count("internal error") == 3  # with the last figures


def test_an_internal_error_of_the_main_thread_ends_fwd_with_a_log_line_and_removes_its_sockets() -> None:
    defect = "from fastvhost.cli import forwarding\nforwarding.CoreWatch = lambda: 1 / 0"
    with forwarder(defect=defect) as fwd:
        assert fwd.process.wait(MAX_WAIT) == 1
        assert "ZeroDivisionError" in fwd.log
        assert list(fwd.directory.glob("*.sock")) == []


STUCK = {
    "control thread": "from fastvhost.vhostuser.service import VhostUserService\n"
    "VhostUserService._serve = lambda *_: time.sleep(60)",
    "main thread": "from fastvhost.control.switch import Switch\n"
    "Switch.halt = lambda self: ([unit.withdraw() for unit in self.wiring.ports], time.sleep(60))",
}


@pytest.mark.parametrize("defect", STUCK.values(), ids=STUCK)
def test_whatever_is_stuck_a_signal_frees_the_paths_at_once_and_ends_it_in_time(defect: str) -> None:
    with forwarder(defect=f"import time\n{defect}") as fwd, socket.socket(socket.AF_UNIX) as front_end:
        front_end.connect(fwd.sockets[0])
        front_end.send(b"x")
        time.sleep(0.1)
        own = OwnTime(fwd.process.pid)
        fwd.process.send_signal(signal.SIGTERM)
        # While it is stuck: nobody removes them once it has ended.
        fwd.wait_for("its paths to be free", lambda: own.seconds and not list(fwd.directory.glob("*.sock")))
        freed = own.seconds
        command = [*FASTVHOST, "fwd", "--port", "a.sock", "--port", "b.sock", "--control", "control.sock"]
        with (fwd.directory / "log2").open("wb") as log:
            next_one = subprocess.Popen(command, cwd=fwd.directory, env=ENVIRONMENT, stdout=log, stderr=log)
        again = Forwarder(next_one, fwd.directory)
        try:
            again.wait_for("it serves", lambda: len(list(fwd.directory.glob("*.sock"))) == 3)
            deadline, took = time.monotonic() + MAX_WAIT, freed
            while fwd.process.poll() is None:
                took = own.seconds
                assert time.monotonic() < deadline
                time.sleep(0.002)
            assert fwd.process.returncode == 1
            assert freed < END_SECONDS / 2
            assert took < END_SECONDS + 0.2
            assert again.end()[0] == 0
        finally:
            next_one.kill()
            next_one.wait()


def test_json_figures_come_one_object_a_line_and_add_up() -> None:
    with forwarder("--json", "--stats-period", "0.2") as fwd:
        with Guests(*fwd.sockets, PairSettings(sizes=(100,))) as guests:
            frames_pass(guests, 10_000)
            lines = fwd.out.count("\n")
            fwd.wait_for("more figures", lambda: fwd.out.count("\n") > lines + 3)
            final = guests.stop()
        fwd.end()
        *periodic, last = [json.loads(line) for line in fwd.out.splitlines()]
        for before, after in itertools.pairwise(periodic):
            came = after["ports"]["a"]["rx_frames"] - before["ports"]["a"]["rx_frames"]
            rates = after["rates"]
            assert rates["ports"]["a"]["rx_frames"] * rates["seconds"] == pytest.approx(came, rel=0.01, abs=1)
        assert max(one["rates"]["ports"]["a"]["rx_frames"] for one in periodic) > 0
        assert last["ports"]["a"]["rx_frames"] == final.a_to_b.sent_frames
        assert last["ports"]["b"]["tx_frames"] == final.a_to_b.frames
        assert last["ports"]["b"]["tx_bytes"] == final.a_to_b.bytes == 100 * final.a_to_b.frames
        assert "NaN" not in fwd.out


def test_stats_and_show_answer_within_a_second_under_load() -> None:
    with forwarder() as fwd, Guests(*fwd.sockets) as guests:
        control = ("--control", str(fwd.directory / "control.sock"))
        frames_pass(guests)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(MAX_WAIT)
            connection.connect(control[1])
            own = OwnTime(fwd.process.pid)
            connection.sendall(b'{"command": "stats"}\n')
            assert json.loads(connection.makefile().readline())["ok"]
            assert own.seconds < 1.0

        def stats() -> dict[str, Any]:
            return dict(json.loads(fastvhost("stats", "--json", *control).stdout))

        first = stats()
        fwd.wait_for("more frames", lambda: stats()["ports"]["a"]["rx_frames"] > first["ports"]["a"]["rx_frames"])
        second = stats()
        assert second["workers"]["worker0"]["rounds"] > first["workers"]["worker0"]["rounds"]
        assert second["ports"]["a"]["link"] == "up"
        shown = fastvhost("show", "a", *control).stdout
        for words in ("link up", "MRG_RXBUF", "a.sock", "regions", "rings", "next avail"):
            assert words in shown
        assert "b.sock" not in shown
        both = [json.loads(line) for line in fastvhost("show", "--json", *control).stdout.splitlines()]
        assert [port["name"] for port in both] == ["a", "b"]
        unknown = fastvhost("show", "z", *control)
        assert unknown.returncode == 1
        assert "the ports are a, b" in unknown.stderr


def test_a_stopped_reader_of_figures_does_not_end_the_forwarder() -> None:
    with forwarder() as fwd:
        pipe_out, pipe_in = os.pipe()
        command = [
            *FASTVHOST,
            "fwd",
            "--port",
            "c.sock",
            "--port",
            "d.sock",
            "--control",
            "c2.sock",
            "--stats-period",
            "0.1",
        ]
        process = subprocess.Popen(command, cwd=fwd.directory, env=ENVIRONMENT, stdout=pipe_in, stderr=subprocess.PIPE)
        os.close(pipe_in)
        os.read(pipe_out, 10)
        os.close(pipe_out)
        time.sleep(0.5)
        assert process.poll() is None
        process.terminate()
        _, log = process.communicate(timeout=MAX_WAIT)
        assert process.returncode == 0
        assert b"Traceback" not in log
        assert b"BrokenPipe" not in log


def test_sockets_are_open_to_the_group_and_nobody_else() -> None:
    with forwarder() as fwd:
        for path in fwd.directory.glob("*.sock"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_second_one_on_the_same_socket_is_refused_and_the_first_undisturbed() -> None:
    with forwarder() as fwd:
        second = fastvhost("fwd", "--port", "a.sock", "--port", "c.sock", "--control", "c2.sock", cwd=fwd.directory)
        assert second.returncode == 2
        assert "a.sock: another process answers on it" in second.stderr
        assert not (fwd.directory / "c.sock").exists()
        assert not (fwd.directory / "c2.sock").exists()
        with Guests(*fwd.sockets) as guests:
            frames_pass(guests)
        assert fwd.end()[0] == 0


def test_check_beside_a_running_one_warns_of_its_paths_and_finds_the_configuration_good() -> None:
    with forwarder() as fwd:
        checked = fastvhost("fwd", "--port", "a.sock", "--port", "c.sock", "--json", "--check", cwd=fwd.directory)
        assert checked.returncode == 0
        assert "fastvhost: warning: a.sock: another process answers on it; stop that one or" in checked.stderr
        assert json.loads(checked.stdout)["warnings"][0].startswith("a.sock: another process answers on it")


def test_what_a_killed_one_left_behind_is_no_hindrance() -> None:
    with forwarder() as fwd:
        fwd.process.kill()
        fwd.process.wait()
        assert (fwd.directory / "a.sock").exists()
        again = Forwarder(
            subprocess.Popen(
                [*FASTVHOST, "fwd", "--port", "a.sock", "--port", "b.sock", "--control", "control.sock"],
                cwd=fwd.directory,
                env=ENVIRONMENT,
                stdout=(fwd.directory / "out").open("wb"),
                stderr=(fwd.directory / "log").open("wb"),
            ),
            fwd.directory,
        )
        again.wait_log("port b: listening")
        assert again.end()[0] == 0
        assert again.warnings == []


def test_a_client_port_waits_for_its_peer_without_alarm() -> None:
    with forwarder(ports=("b.sock", "a.sock,mode=client")) as fwd:
        assert not (fwd.directory / "a.sock").exists()
        time.sleep(0.5)
        assert fwd.end()[0] == 0
        assert fwd.warnings == []


def test_two_workers_share_one_wire_and_every_frame_arrives() -> None:
    cores = sorted(os.sched_getaffinity(0))
    with forwarder("--cores", f"{cores[0]},{cores[-1]}", *HOLDS) as fwd:
        with Guests(*fwd.sockets, PairSettings(content="whole", sizes=(300,))) as guests:
            frames_pass(guests, 10_000)
            final = guests.stop()
        assert (final.lost, final.corrupt, final.reordered, final.duplicated) == (0, 0, 0, 0)
        assert fwd.end()[0] == 0


@pytest.mark.parametrize("idle", ["adaptive", "interrupt"])
def test_an_idle_forwarder_sleeps_and_wakes_for_its_guests(idle: str) -> None:
    with forwarder("--idle", idle, "--json", *HOLDS) as fwd:
        with Guests(*fwd.sockets, PairSettings(content="whole", sizes=(300,))) as guests:
            frames_pass(guests, 10_000)
            final = guests.stop()
        comes_to_rest(fwd.process.pid, fwd.rounds)
        assert (final.lost, final.corrupt, final.reordered, final.duplicated) == (0, 0, 0, 0)
        assert fwd.end()[0] == 0
        assert json.loads(fwd.out.splitlines()[-1])["workers"]["worker0"]["sleeps"] > 0


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_by_default_two_idle_guests_cost_a_look_every_20_ms(packed: bool) -> None:
    with forwarder(*HOLDS) as fwd:
        guests = Guests(*fwd.sockets, PairSettings(packed=packed))
        guests.start()
        frames_pass(guests, 10_000)
        assert guests.stop_load().lost == 0
        comes_to_rest(fwd.process.pid, fwd.rounds)
        # A frame wakes it from there. How fast depends on the machine, but it does not wait for the nap's end.
        medians: list[float] = []
        while not medians or min(medians) > 2000:
            assert len(medians) < 10, medians
            medians.append(guests.latency(seconds=1.0, gap_us=10_000).p50)
        guests.stop()
        assert fwd.end()[0] == 0


def test_a_guest_with_nothing_at_the_other_end_does_not_hang() -> None:
    with forwarder("--wire", "a:null", ports=("a.sock", "null:", "b.sock")) as fwd:
        with Guests(*fwd.sockets) as guests:
            ways = "both send more than their rings hold"
            fwd.wait_for(ways, lambda: min(way.sent_frames for way in guests.counters()) > 10_000)
        fwd.end()
        assert "no wire joins it to another, frames from it drop as no_egress" in fwd.log
        assert re.search(r"dropped from b: no_egress \d{4,}", fwd.out)


@pytest.mark.alone  # floods
def test_the_demo_runs_the_main_job_and_leaves_nothing() -> None:
    with short_dir() as place:
        done = fastvhost("demo", "--seconds", "1.5", TMPDIR=str(place))
        assert list(place.iterdir()) == []
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 lost, 0 corrupt, 0 out of order, 0 twice" in done.stdout
    assert re.search(r"1 s  a>b .*pps .*bit/s   b>a .*pps", done.stdout)
    assert "one frame in flight" in done.stdout


def test_doctor_finds_this_host_fit_and_a_directory_unfit() -> None:
    done = fastvhost("doctor")
    assert done.returncode == 0, done.stdout
    assert "memfd works" in done.stdout
    assert "\033" not in done.stdout
    done = fastvhost("doctor", "--directory", "/no/such/place")
    assert done.returncode == 1
    assert "mkdir -p /no/such/place" in done.stdout


def test_fwd_that_is_stopped_and_continued_goes_on() -> None:
    with forwarder() as fwd:
        for _ in range(2):
            fwd.process.send_signal(signal.SIGSTOP)
            time.sleep(0.8)  # longer than the main thread ever waits
            fwd.process.send_signal(signal.SIGCONT)
            time.sleep(0.3)
        with Guests(*fwd.sockets) as guests:
            frames_pass(guests)
        assert fwd.end()[0] == 0
        assert fwd.warnings == []


def test_what_example_prints_for_qemu_is_what_qemu_takes() -> None:
    with forwarder() as fwd:
        control = str(fwd.directory / "control.sock")
        lines = fastvhost("example", "qemu", "a", "--control", control, "--memory", "64M").stdout.strip()
        assert f"path={fwd.directory}/a.sock,{reconnect(qemu_version())} " in lines
        told = fastvhost("example", "qemu", f"{fwd.directory}/a.sock,mtu=9000", "--memory", "64M").stdout.strip()
        assert told.replace(",host_mtu=9000", "") == lines
        # Any processor, no disk, and the guest itself is not run.
        lines = told.replace("-accel kvm -cpu host", "-accel tcg").replace("-drive file=guest.qcow2,if=virtio", "")
        command = ["bash", "-c", f"exec {lines} -S -display none -nodefaults"]
        qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            fwd.wait_log("port a: connected")
            time.sleep(0.5)
            assert qemu.poll() is None
        finally:
            qemu.kill()
            output = qemu.communicate(timeout=MAX_WAIT)[0]
        assert output == b""


def test_what_example_prints_for_virtio_user_is_what_testpmd_takes() -> None:
    with forwarder() as fwd:
        lines = fastvhost("example", "virtio-user", f"{fwd.directory}/a.sock").stdout
        # Without a terminal it leaves after its last command.
        testpmd = subprocess.run(
            ["bash", "-c", lines], input="start\n", capture_output=True, text=True, timeout=2 * MAX_WAIT, check=False
        )
        assert testpmd.returncode == 0, testpmd.stdout + testpmd.stderr
        assert "port a: rings 0 1 running" in fwd.log
        fwd.wait_log("port a: disconnected")
        assert fwd.warnings == []

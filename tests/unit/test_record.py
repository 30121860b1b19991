"""A port's record outlives fwd: it is in memory, used for one process only, and removed when it is of no use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastvhost.backend import record
from fastvhost.backend.features import F_RING_RESET, F_VERSION_1, OFFLOADS, mask
from fastvhost.backend.record import HEADER, HEADER_BYTES, Record, RecordError, abandoned
from fastvhost.control import records
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.vhostuser.offer import Offer
from fastvhost.vhostuser.protocol_features import offered_features
from tests.unit.forwarder import ENVIRONMENT

RING_RESET = mask(F_RING_RESET)
BEFORE = mask(F_VERSION_1, F_RING_RESET)
ME = os.getpid()


@pytest.fixture
def path() -> Iterator[Path]:
    directory = Path("/dev/shm") / f"fv-test-{ME}"
    directory.mkdir(mode=0o700)
    yield directory / "a.state"
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()


@pytest.fixture
def somebody() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as other:
        yield other.pid
        other.kill()


def test_what_a_process_acknowledged_is_there_after_a_restart_and_its_rings_places_too(path: Path) -> None:
    first = Record(str(path), 2)
    assert first.acknowledged(ME) == 0
    first.acknowledge(BEFORE, ME)
    first.journals[100] = 7
    second = Record(str(path), 2)
    assert second.acknowledged(ME) == BEFORE
    assert second.journals[100] == 7


def test_another_process_begins_anew(path: Path, somebody: int) -> None:
    record = Record(str(path), 2)
    record.acknowledge(BEFORE, somebody)
    record.journals[100] = 7
    assert record.acknowledged(ME) == 0
    assert record.journals[100] == 0


def test_a_process_id_that_was_given_again_is_another_process(path: Path) -> None:
    record = Record(str(path), 2)
    record.acknowledge(BEFORE, ME)
    data = bytearray(path.read_bytes())
    *fields, started, device, inode = HEADER.unpack_from(data)
    HEADER.pack_into(data, 0, *fields, started - 1, device, inode)
    path.write_bytes(data)
    assert Record(str(path), 2).acknowledged(ME) == 0


def test_a_guest_whose_memory_is_another_file_begins_anew(path: Path) -> None:
    """The same process may serve one guest after the other, all at the same addresses."""
    record = Record(str(path), 2)
    record.acknowledge(BEFORE, ME)
    record.met([(1, 10)])
    record.journals[100] = 7
    record.acknowledge(BEFORE, ME)
    record.met([])
    record.met([(1, 11), (1, 10)])
    assert record.journals[100] == 7
    record.met([(1, 11)])
    assert record.journals[100] == 0
    assert record.acknowledged(ME) == BEFORE


IN_A_CONTAINER = """
import os, sys
from fastvhost.backend.record import Record
Record(sys.argv[1], 2).acknowledge(int(sys.argv[2]), os.getpid())
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def test_a_front_end_that_a_fwd_in_another_pid_namespace_knew_is_the_same_one(path: Path) -> None:
    """A fwd that moves out of a container, or into one, finds the record of the one before."""
    inside = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child", sys.executable, "-c", IN_A_CONTAINER]
    words = [*inside, str(path), str(BEFORE)]
    with subprocess.Popen(words, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "1\n"
            (here,) = Path(f"/proc/{other.pid}/task/{other.pid}/children").read_text().split()
            assert Record(str(path), 2).acknowledged(int(here)) == BEFORE
            assert Record(str(path), 2).acknowledged(ME) == 0
        finally:
            other.kill()


def test_a_front_end_whose_process_cannot_be_known_is_taken_for_the_same(path: Path) -> None:
    Record(str(path), 2).acknowledge(BEFORE, 0)
    assert Record(str(path), 2).acknowledged(ME) == BEFORE
    Record(str(path), 2).acknowledge(BEFORE, ME)
    assert Record(str(path), 2).acknowledged(0) == BEFORE


@pytest.mark.parametrize("at", [0, 8, 16], ids=["magic", "version", "boot"])
def test_a_record_of_another_kind_or_boot_is_emptied(path: Path, at: int) -> None:
    record = Record(str(path), 2)
    record.acknowledge(BEFORE, ME)
    record.journals[100] = 7
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    again = Record(str(path), 2)
    assert again.acknowledged(ME) == 0
    assert again.journals[100] == 0


def test_a_record_grows_with_the_queues_and_keeps_what_it_had(path: Path) -> None:
    Record(str(path), 2).acknowledge(BEFORE, ME)
    more = Record(str(path), 8)
    assert more.acknowledged(ME) == BEFORE
    assert len(more.journals) == 4 * len(Record(str(path), 2).journals)


def test_a_closed_record_is_mapped_only_as_long_as_a_port_keeps_its_journals(path: Path) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(path))

    record, port = Record(str(path), 2), VirtioPort("p", Door())
    port.keep_journals(record.journals)
    record.close()
    assert mapped() == 1
    port.close()
    assert mapped() == 0


def test_a_record_is_removed_with_its_port_unless_the_front_end_lives_on(path: Path, somebody: int) -> None:
    record = Record(str(path), 2)
    record.close()
    assert not path.exists()
    record = Record(str(path), 2)
    record.acknowledge(BEFORE, ME)
    record.close()
    assert path.exists()
    record = Record(str(path), 2)
    record.acknowledge(BEFORE, somebody)
    assert not abandoned(path)
    os.kill(somebody, 9)
    os.waitpid(somebody, 0)
    assert not abandoned(path)  # a fwd has it, this one
    del record
    assert abandoned(path)
    Record(str(path), 2).close()
    assert not path.exists()


def test_only_this_users_own_file_is_taken_and_nothing_is_left_where_it_cannot_be(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"x")
    path.symlink_to(target)
    with pytest.raises(RecordError):
        Record(str(path), 2)
    path.unlink()
    path.write_bytes(b"")
    path.chmod(0o660)
    with pytest.raises(RecordError, match="not fwd's"):
        Record(str(path), 2)
    path.unlink()
    path.mkdir()
    with pytest.raises(RecordError):
        Record(str(path), 2)
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(RecordError, match="not fwd's"):
        Record(str(path), 2)
    assert target.read_bytes() == b"x"


def test_no_record_is_kept_on_a_disk_and_no_file_is_left_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastvhost.backend.foreign_files.is_kernel_memory", lambda _: False)
    with pytest.raises(RecordError, match="no memory file system"):
        Record(str(path), 2)
    assert not path.exists()


def test_a_full_memory_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RecordError, match="No space left"):
        Record(str(path), 2)
    assert not path.exists()


def test_a_record_lies_beside_the_socket_or_in_a_directory_of_this_user(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "SHARED_MEMORY", path.parent)
    socket = str(path.with_suffix(".sock"))
    assert records.keep(socket, 2, beside=True).path == socket + ".state"
    private = path.parent / f"fastvhost-{os.geteuid()}"
    monkeypatch.setattr(records, "SHARED_MEMORY", tmp_path)  # a disk, or memory: where the tests run
    monkeypatch.setattr("fastvhost.backend.foreign_files.is_kernel_memory", lambda _: True)
    kept = records.keep(socket, 2, beside=False)
    assert Path(kept.path).parent == tmp_path / private.name
    assert Path(kept.path).parent.stat().st_mode & 0o777 == 0o700
    kept.acknowledge(BEFORE, ME)
    records.remove_abandoned()
    assert Path(kept.path).exists()
    kept.acknowledge(0, ME)
    where = Path(kept.path)
    records.remove_abandoned()
    assert where.exists()  # its port lives, and waits for a front-end
    del kept
    records.remove_abandoned()
    assert not where.exists()


def test_two_sockets_of_the_same_path_in_two_directories_have_two_records(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in two containers that share /dev/shm. A port that comes back to its directory finds its own."""
    monkeypatch.setattr(records, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("fastvhost.backend.foreign_files.is_kernel_memory", lambda _: True)
    here = path.parent / "run"
    found = []
    for container in ("one", "other", "one"):
        (path.parent / container).mkdir(exist_ok=True)
        here.unlink(missing_ok=True)
        here.symlink_to(path.parent / container)
        kept = records.keep(str(here / "a.sock"), 2, beside=False)
        found.append((kept.path, kept.acknowledged(ME)))
        kept.acknowledge(BEFORE, ME)
    assert found[0][0] == found[2][0] != found[1][0]
    assert [features for _, features in found] == [0, 0, BEFORE]
    for container in ("one", "other"):
        (path.parent / container).rmdir()


def test_no_record_where_others_could_put_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "SHARED_MEMORY", path.parent)
    private = path.parent / f"fastvhost-{os.geteuid()}"
    private.mkdir()
    private.chmod(0o777)
    with pytest.raises(RecordError):
        records.keep("/nowhere/a.sock", 2, beside=False)
    private.rmdir()


# What is offered


def test_a_bit_that_was_withdrawn_is_offered_to_who_has_it_and_to_nobody_else(path: Path, somebody: int) -> None:
    Record(str(path), 2).acknowledge(BEFORE, ME)
    offer = Offer(1, record=Record(str(path), 2))
    assert offer.to(ME) == offered_features(1) | RING_RESET
    assert offer.to(somebody) == offered_features(1)


def test_a_front_end_that_leaves_when_it_knows_the_features_is_offered_more_the_next_time(somebody: int) -> None:
    offer = Offer(1)
    assert offer.to(ME) == offered_features(1)
    offer.turned_down()
    assert offer.to(ME) == offered_features(1) | RING_RESET
    offer.chosen(BEFORE, ME)
    assert offer.to(ME) == offered_features(1) | RING_RESET
    assert offer.to(somebody) == offered_features(1)


def test_no_bit_but_a_withdrawn_one_comes_back(path: Path) -> None:
    Record(str(path), 2).acknowledge(~0 & (1 << 64) - 1, ME)
    assert Offer(1, record=Record(str(path), 2)).to(ME) == offered_features(1) | RING_RESET


def test_a_guest_of_before_offloads_is_offered_all_that_it_has_and_goes_on_without_them(path: Path) -> None:
    """Until its driver starts anew: it does not choose again."""
    has = offered_features(1) & ~OFFLOADS
    Record(str(path), 2).acknowledge(has, ME)
    offer = Offer(1, record=Record(str(path), 2))
    assert offer.to(ME) & has == has
    offer.chosen(has, ME)
    assert Record(str(path), 2).acknowledged(ME) == has


def test_a_guest_with_offloads_is_offered_all_that_it_has_after_a_restart(path: Path) -> None:
    """Of the highest bits, too."""
    has = offered_features(1)
    Offer(1, record=Record(str(path), 2)).chosen(has, ME)
    assert Record(str(path), 2).acknowledged(ME) == has
    assert Offer(1, record=Record(str(path), 2)).to(ME) & has == has


def test_a_guest_with_offloads_is_not_offered_them_by_a_fwd_that_does_not_do_them(path: Path) -> None:
    """It has to be started anew. That this is tried leaves the record as it was: the fwd before may come back."""
    has = offered_features(1)
    Offer(1, record=Record(str(path), 2)).chosen(has, ME)
    back = Offer(1, without=OFFLOADS, record=Record(str(path), 2))
    assert has & ~back.to(ME) == OFFLOADS
    back.turned_down()
    assert has & ~back.to(ME) == OFFLOADS
    assert Record(str(path), 2).acknowledged(ME) == has
    assert Offer(1, record=Record(str(path), 2)).to(ME) & has == has


@pytest.mark.parametrize("unknown", ["the pid namespace", "the boot"])
def test_what_cannot_be_known_from_here_is_not_taken_for_abandoned(
    path: Path, somebody: int, monkeypatch: pytest.MonkeyPatch, unknown: str
) -> None:
    """Containers may share the directory: a process of one is not visible in the others, but still runs."""
    Record(str(path), 2).acknowledge(BEFORE, somebody)
    data = bytearray(path.read_bytes())
    *fields, started, device, inode = HEADER.unpack_from(data)
    HEADER.pack_into(data, 0, *fields, started - 1, device, inode)  # not the process that has this number here
    path.write_bytes(data)
    assert abandoned(path)
    if unknown == "the boot":
        monkeypatch.setattr(record, "_boot_id", lambda: record.UNKNOWN_BOOT)
    else:
        monkeypatch.setattr(record, "_pid_namespace", lambda: 4026532001)
    assert not abandoned(path)


def test_the_header_has_room() -> None:
    assert HEADER.size <= HEADER_BYTES
    assert HEADER_BYTES % 64 == 0

"""Bugs in what waits for room at a port of a switch."""

from tests.mutants.mutant import Mutant

BACKLOG, FORWARD = "dataplane/forward/backlog.pyx", "dataplane/forward/forward.pyx"
WAITS = "unit/test_backlog.py::test_"
IN_FRONT = f"{WAITS}what_waits_in_front_of_a_frame_is_delivered_before_it_although_it_is_not_its_turn[split]"

MUTANTS = (
    Mutant(
        "backlog-overtaken",
        FORWARD,
        "is_behind(lane, exit, pair)",
        "False",
        IN_FRONT,
    ),
    Mutant(
        "backlog-only-in-its-turn",
        BACKLOG,
        "    drain(lane, exit, backlog)\n    return backlog.n != 0\n",
        "    return True\n",
        IN_FRONT,
    ),
    Mutant(
        "floods-wait",
        "dataplane/forward/exits.pxd",
        "lane.hold and not flooded",
        "lane.hold",
        f"{WAITS}a_flooded_frame_neither_waits_nor_overtakes_one_that_does[packed]",
    ),
    Mutant(
        "backlog-of-a-queue-that-stopped",
        BACKLOG,
        "backlog.stops != backlog.egress.stops[backlog.pair]",
        "False",
        f"{WAITS}a_queue_that_stops_gives_its_backlog_up[stopped and started again-split]",
    ),
    Mutant(
        "backlog-of-a-port-that-is-gone",
        "dataplane/lane_change.pyx",
        "        give_up(change.backlogs, change.seats[i].before, NO_EGRESS)\n",
        "        pass\n",
        f"{WAITS}a_port_that_is_removed_gives_its_backlog_up[2]",
    ),
    Mutant(
        "backlog-for-ever",
        BACKLOG,
        "waiting_at(backlog, n).until <= now",
        "False",
        f"{WAITS}what_waits_for_longer_than_the_hold_timeout_is_dropped[packed]",
    ),
    Mutant(
        "blocks-kept",
        BACKLOG,
        "    give_blocks(backlogs, backlog, n_blocks)\n",
        "    backlog.n_blocks -= n_blocks\n",
        f"{WAITS}a_worker_has_16_mib_for_all_queues_and_gets_them_back",
    ),
    Mutant(
        "rest-numbered-anew",
        "dataplane/offload/cut.pyx",
        "    write_header(super, to, super.at, super.bytes - super.header_bytes - super.at, True)\n",
        "    write_header(super, to, 0, super.bytes - super.header_bytes - super.at, True)\n",
        f"{WAITS}a_super_frame_that_is_cut_half_way_waits_and_goes_on_piece_by_piece[tcp4-room for 3-split]",
    ),
)

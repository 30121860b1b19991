"""Bugs in the door, in workers, in how ports share one, in ports with virtqueues, and in notifying."""

from tests.mutants.mutant import Mutant

DOOR, ROSTER, DEVICE, PORT = (f"dataplane/{name}.pyx" for name in ("door", "roster", "virtio_device", "virtio_port"))

MUTANTS = (
    Mutant(
        "door-not-waited-for",
        DOOR,
        "missing == who",
        "missing & who != 0",
        "unit/test_door_steps.py::test_the_last_worker_to_come_makes_the_change_and_all_go_on[order0]",
    ),
    Mutant(
        "door-stops-all-workers",
        DOOR,
        "self.door.gates[i].postings[k] == &self.posting",
        "True",
        "unit/test_door.py::test_a_port_whose_workers_are_others_is_not_kept_waiting",
    ),
    Mutant(
        "door-keeps-who-came",
        DOOR,
        "now >= end",
        "False",
        "unit/test_door.py::test_a_worker_that_came_goes_on_while_another_one_is_waited_for",
    ),
    Mutant(
        "door-waits-for-control",
        DOOR,
        "not missing & COUNTING",
        "True",
        "unit/test_door_steps.py::test_no_worker_comes_while_control_looks_who_is_to_come",
    ),
    Mutant(
        "door-forgets-who-waited",
        DOOR,
        "missing & who",
        "missing & 0",
        "unit/test_door_steps.py::"
        "test_a_worker_that_waited_in_vain_goes_on_and_comes_again_when_the_late_one_calls_it",
    ),
    Mutant(
        "door-lets-in-who-starts",
        DOOR,
        "not missing & me and not join(posting, me)",
        "False",
        "unit/test_door_steps.py::test_a_worker_that_was_stopped_and_takes_a_step_is_waited_for",
    ),
    Mutant(
        "failed-change-kept",
        PORT,
        "        self.next.begun = self.changing = False\n        self.next_memory = self.memory\n",
        "        self.changing = False\n",
        "unit/test_door.py::test_a_block_that_raises_changes_nothing",
    ),
    Mutant(
        "visits-not-charged",
        ROSTER,
        "min(now - roster.now, roster.most << LONE_FRAME_SHIFT if moved == 1 else roster.most)",
        "0",
        "unit/test_shares.py::test_a_port_whose_frames_take_long_gets_half_of_the_time_beside_another",
    ),
    Mutant(
        "idle-ports-save-up",
        ROSTER,
        "sender.used + roster.lead < roster.least",
        "False",
        "unit/test_shares.py::test_a_port_that_had_nothing_to_send_has_saved_up_25_us_at_the_most",
    ),
    Mutant(
        "kicks-wanted-after-the-sleep",
        "dataplane/idle.pyx",
        "        lane.ingress.want_kicks(lane.ingress, lane.pair, False)\n",
        "        pass\n",
        "unit/test_idle.py::test_while_frames_flow_the_driver_need_not_kick",
    ),
    Mutant(
        "disabled-transmitq-forwards",
        DEVICE,
        "    if queue.enabled:\n        return strip_headers(burst, n, header_bytes, tally)\n",
        "    return strip_headers(burst, n, header_bytes, tally)\n",
        "unit/test_forwarding.py::test_a_started_but_disabled_transmitq_is_drained_and_discarded",
    ),
    Mutant(
        "disabled-receiveq-filled",
        DEVICE,
        "not queue.live or not queue.enabled or queue.ring.status != RING_OK",
        "not queue.live or queue.ring.status != RING_OK",
        "unit/test_forwarding.py::test_a_disabled_receiveq_gets_nothing",
    ),
    Mutant(
        "link-down-not-counted",
        DEVICE,
        "        port.tx[pair].dropped[<int>LINK_DOWN] += n\n",
        "        pass\n",
        "unit/test_forwarding.py::test_without_a_peer_frames_drop_as_link_down_and_the_sender_never_hangs",
    ),
    Mutant(
        "header-of-12-by-version-alone",
        PORT,
        "has_feature(features, F_VERSION_1) or has_feature(features, NET_F_MRG_RXBUF)",
        "has_feature(features, F_VERSION_1)",
        "unit/test_forwarding.py::test_a_frame_of_any_length_arrives_whole_in_every_header_layout",
    ),
    Mutant(
        "receiveq-in-batches",
        PORT,
        "has_feature(next.features, F_IN_ORDER) and fresh.ring.direction == 0",
        "has_feature(next.features, F_IN_ORDER)",
        "unit/test_in_order_batches.py::test_received_frames_are_told_one_by_one_for_their_lengths",
    ),
    Mutant(
        "misaligned-ring-taken",
        "dataplane/virtio_change.pyx",
        "<uint64_t>device % 4",
        "0",
        "unit/test_ring_places.py::test_a_part_that_is_misaligned_is_refused_with_the_rule",
    ),
    Mutant(
        "used-ring-checked-without-its-end",
        "dataplane/virtio_change.pyx",
        "4 + 8 * size + event_bytes",
        "4 + 8 * size - 8",
        "unit/test_ring_places.py::test_a_part_may_end_where_memory_ends_and_not_a_step_behind",
    ),
    Mutant(
        "bit-of-a-stopped-ring-kept",
        "dataplane/notifier.pyx",
        "            clear_bits_u64(&self.asked.words[slot // 64], <uint64_t>1 << slot % 64)\n"
        "            self.targets.pop(slot, None)\n",
        "            self.targets.pop(slot, None)\n",
        "unit/test_notify.py::test_a_ring_that_stops_takes_back_what_was_asked_for_it",
    ),
    Mutant(
        "one-slow-notification-is-many",
        "dataplane/notify.pxd",
        "n > 4",
        "n > 0",
        "unit/test_notify.py::test_a_slow_notification_now_and_then_makes_nothing_slow",
    ),
    Mutant(
        "old-call-descriptor-leaked",
        "dataplane/notifier.pyx",
        "                self.notifier.close_fd(old)\n",
        "                pass\n",
        "unit/test_notify.py::test_another_call_fd_is_the_helpers_from_then_on",
    ),
    Mutant(
        "two-workers-for-one-queue",
        "dataplane/worker.pyx",
        "pair % active % part.shares != part.share",
        "False",
        "unit/test_multi_queue.py::test_pairs_that_were_not_started_are_not_looked_at",
    ),
)

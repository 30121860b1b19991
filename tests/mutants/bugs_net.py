"""Bugs in turning chains into frames, in the copy, and in forwarding."""

from tests.mutants.mutant import Mutant

TRANSMITQ, RECEIVEQ = "dataplane/transmitq.pyx", "dataplane/receiveq.pyx"
FORWARD = "dataplane/forward/forward.pyx"
FORWARDING = "unit/test_forwarding.py"

MUTANTS = (
    Mutant(
        "num-buffers-always-one",
        RECEIVEQ,
        "    header.num_buffers = <uint16_t>spread\n",
        "    pass\n",
        f"{FORWARDING}::test_a_frame_larger_than_a_buffer_takes_several_mergeable_ones",
    ),
    Mutant(
        "num-buffers-one-byte",
        RECEIVEQ,
        "            scatter(receiver.header_bytes, scratch, pile.used, spread, delivery, &frames[i], False)\n",
        "            scatter(receiver.header_bytes, scratch, pile.used, spread & 0xff, delivery, &frames[i], False)\n",
        f"{FORWARDING}::test_the_largest_frame_passes_over_buffers_of_one_hundred_bytes",
    ),
    Mutant(
        "used-length-without-header",
        RECEIVEQ,
        "        scratch.done[chain + i] = Done(target.ticket, written + room)\n",
        "        scratch.done[chain + i] = Done(target.ticket, room)\n",
        f"{FORWARDING}::test_a_frame_larger_than_a_buffer_takes_several_mergeable_ones",
    ),
    Mutant(
        "used-length-of-the-whole-frame",
        RECEIVEQ,
        "        prefetch_payload(room.data + header_bytes)\n        scratch.done[i] = Done(room.ticket, length)\n",
        "        scratch.done[i] = Done(room.ticket, frame.bytes)\n",
        f"{FORWARDING}::test_a_legacy_guest_talks_to_a_modern_mergeable_one",
    ),
    Mutant(
        "runt-without-ethernet-header",
        TRANSMITQ,
        "    if chain.bytes < header_bytes + ETHER_HEADER_BYTES:\n        return RUNT\n",
        "    if chain.bytes < header_bytes:\n        return RUNT\n",
        f"{FORWARDING}::test_a_chain_without_a_whole_header_and_ethernet_header_is_a_runt",
    ),
    Mutant(
        "oversize-forgotten",
        TRANSMITQ,
        "    if chain.bytes > header_bytes + MAX_FRAME_BYTES:\n        return OVERSIZE\n",
        "    pass\n",
        f"{FORWARDING}::test_a_chain_without_a_whole_header_and_ethernet_header_is_a_runt",
    ),
    Mutant(
        "offload-passed-on",
        "dataplane/offload/header.pxd",
        "not needs & ~allowed",
        "True",
        f"{FORWARDING}::test_an_offload_that_was_not_negotiated_is_a_counted_drop",
    ),
    Mutant(
        "merged-without-being-asked",
        RECEIVEQ,
        "not receiver.mergeable and bytes < length",
        "False",
        f"{FORWARDING}::test_without_mergeable_buffers_a_frame_too_long_is_dropped_and_its_buffer_kept",
    ),
    Mutant(
        "header-over-two-chains",
        RECEIVEQ,
        "count == 0 and scratch.chains[chain].bytes < receiver.header_bytes",
        "False",
        "hostile/test_rules.py::test_a_broken_rule_stops_its_ring_once_for_that_reason_and_set_up_anew_it_works[a_receive_chain_of_11_bytes_in_the_receiveq-split]",
    ),
    Mutant(
        "old-header-believed-but-for-num-buffers",
        "dataplane/copy.h",
        "!memcmp(to, header, header_bytes)",
        "!memcmp(to, header, 10)",
        "unit/test_already_there.py::test_a_header_of_zeros_is_no_plain_one",
    ),
    Mutant(
        "last-bytes-not-copied",
        "dataplane/copy.h",
        "_bzhi_u64(~0ull, bytes)",
        "_bzhi_u64(~0ull, bytes - 1)",
        f"{FORWARDING}::test_a_frame_of_any_length_arrives_whole_in_every_header_layout",
    ),
    Mutant(
        "held-frames-dropped",
        FORWARD,
        "done < n and not exit.may_wait",
        "done < n",
        f"{FORWARDING}::test_a_full_egress_holds_frames_in_the_ingress_ring_until_it_moves_again",
    ),
    Mutant(
        "drops-counted-with-what-was-delivered",
        FORWARD,
        "        leave_rest(lane, exit, pair, delivery, done)\n",
        "        leave_rest(lane, exit, pair, delivery, 0)\n",
        f"{FORWARDING}::test_on_full_drop_counts_what_does_not_fit_at_once",
    ),
    Mutant(
        "egress-believed",
        FORWARD,
        "min(n, egress.deliver_burst(egress, pair, delivery))",
        "egress.deliver_burst(egress, pair, delivery)",
        "unit/test_counts.py::test_whatever_an_egress_returns_no_more_chains_are_released_than_were_received",
    ),
    Mutant(
        "frames-of-before-kept",
        FORWARD,
        "lane.epoch != ingress.epoch",
        "False",
        f"{FORWARDING}::test_frames_that_wait_while_the_other_ring_of_their_port_is_stopped_arrive_once",
    ),
    Mutant(
        "forgotten-frames-still-counted",
        FORWARD,
        "    lane.ingress.rx[lane.pair].frames -= lane.burst.n_frames - lane.first\n",
        "    pass\n",
        f"{FORWARDING}::test_frames_that_wait_while_the_other_ring_of_their_port_is_stopped_arrive_once",
    ),
    Mutant(
        "all-flows-to-the-first-queue",
        FORWARD,
        "lane.pair % active",
        "0",
        "unit/test_multi_queue.py::test_with_unequal_counts_a_flow_keeps_its_queue_and_its_order",
    ),
    Mutant(
        "budget-of-bytes-ignored",
        FORWARD,
        "        if bytes > VISIT_BYTES:\n            break\n",
        "        pass\n",
        "unit/test_visit_budget.py::test_a_visit_moves_256_kib_of_payload",
    ),
    Mutant(
        "bad-chain-not-counted",
        RECEIVEQ,
        "            count_drops(tally, BAD_DESCRIPTOR, 1)\n",
        "            pass\n",
        "unit/test_bad_behind_good.py::test_a_frame_that_wants_more_mergeable_buffers_than_there_are_good_ones_meets_the_bad_chain",
    ),
    Mutant(
        "unfilled-buffers-kept",
        RECEIVEQ,
        "pile.used < pile.n_chains",
        "False",
        "unit/test_forwarding.py::test_without_mergeable_buffers_a_frame_too_long_is_dropped_and_its_buffer_kept",
    ),
)

"""Bugs in a switch: headers that are read again after they were decided on."""

from tests.mutants.mutant import Mutant

FORWARD, LEARN = "dataplane/forward/forward.pyx", "dataplane/forward/learn.pyx"
RECEIVEQ = "dataplane/receiveq.pyx"
REWRITTEN = "hostile/test_rewritten_headers.py"
BEFORE_THE_COPY = f"{REWRITTEN}::test_a_header_that_is_rewritten_before_the_copy_arrives_as_it_was_decided_on"
UNLIKE = "unit/test_learn.py::test_a_frame_that_begins_unlike_the_others_of_its_burst_arrives_as_it_was_sent"

MUTANTS = (
    Mutant(
        "header-copied-as-it-is-by-then",
        RECEIVEQ,
        "        put_start(scratch.chains[i].data + header_bytes, start_of(delivery, i))\n",
        "        pass\n",
        f"{BEFORE_THE_COPY}[split-in one piece-direct]",
    ),
    Mutant(
        "header-copied-as-it-is-by-then-into-pieces",
        RECEIVEQ,
        "            put_start_at(scratch, pile.used, spread, receiver.header_bytes, start_of(delivery, first + i))\n",
        "            pass\n",
        f"{BEFORE_THE_COPY}[packed-in pieces-indirect]",
    ),
    Mutant(
        "header-as-it-is-by-then-for-other-kinds",
        FORWARD,
        "not egress.takes_starts",
        "False",
        f"{BEFORE_THE_COPY}[packed_in_order-in one piece-direct]",
    ),
    Mutant(
        "header-of-pieces-as-it-is-by-then",
        FORWARD,
        "deliver_cut(lane.cutter, &lane.super, egress, pair, delivery)",
        "deliver_cut(lane.cutter, &lane.super, egress, pair, &exit.delivery)",
        f"{REWRITTEN}::test_frames_that_a_super_frame_is_cut_into_have_the_header_that_was_decided_on[split_in_order]",
    ),
    Mutant(
        "destination-read-again",
        LEARN,
        "destination_key(learner.starts[i].bytes, vlan)",
        "destination_key(lane.burst.frames[lane.first + i].data, vlan)",
        f"{REWRITTEN}::test_a_frame_whose_address_never_stops_changing_arrives_where_its_address_says[split]",
    ),
    Mutant(
        "four-frames-alike-by-their-destination",
        "dataplane/forward/starts.pyx",
        "first | last & matters == 0",
        "first == 0",
        f"{UNLIKE}[source-3]",
    ),
    Mutant(
        "four-frames-alike-by-the-last-one",
        "dataplane/forward/starts.pyx",
        "        first |= words[0] ^ common[0]\n",
        "        first = words[0] ^ common[0]\n",
        f"{UNLIKE}[destination-2]",
    ),
)

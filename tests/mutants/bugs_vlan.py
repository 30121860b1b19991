"""Bugs in VLANs: who is a member, what a tag is, and what is delivered in its place."""

from tests.mutants.mutant import Mutant

TAGS, LEARN = "dataplane/forward/tags.pyx", "dataplane/forward/learn.pyx"
TESTS = "unit/test_vlan.py::test_"

MUTANTS = (
    Mutant(
        "vlan-floods-to-ports-that-are-no-members",
        TAGS,
        "port != learner.number and member.port != NULL and is_member(&member.vlans, vlan)",
        "port != learner.number and member.port != NULL",
        TESTS + "access_ports_of_one_vlan_reach_each_other_without_a_tag_and_no_other[split]",
    ),
    Mutant(
        "vlan-of-a-known-address-not-checked",
        LEARN,
        "members.tagging and port < members.n and not is_member(&members.at[port].vlans, vlan_of(destination))",
        "False",
        TESTS + "a_static_address_at_a_port_that_is_no_member_gets_nothing[split]",
    ),
    Mutant(
        "vlan-tag-at-an-access-port-believed",
        TAGS,
        "not port.tagged",
        "False",
        TESTS + "a_frame_of_a_vlan_that_its_port_has_not_is_dropped_and_its_source_not_learned[own-split]",
    ),
    Mutant(
        "vlan-hidden-tag-comes-to-light",
        TAGS,
        "ethertype == ETHERTYPE_VLAN",
        "False",
        TESTS + "no_tag_comes_to_light_that_the_sender_put_behind_another_one[native-split]",
    ),
    Mutant(
        "vlan-hidden-tag-among-frames-that-begin-alike",
        TAGS,
        "not differs",
        "True",
        TESTS + "of_frames_that_begin_alike_one_with_a_hidden_tag_is_dropped[1-split]",
    ),
    Mutant(
        "vlan-checksum-written-over-a-tag",
        TAGS,
        "head.net.csum_start >= header_bytes",
        "True",
        TESTS + "a_checksum_must_not_be_filled_in_where_the_tag_is[14-split]",
    ),
    Mutant(
        "vlan-floods-of-two-vlans-share-room",
        TAGS,
        "    bare[0] += untagged.n\n",
        "    bare[0] += 0\n",
        TESTS + "a_burst_of_one_kind_and_of_several_keeps_its_order[split]",
    ),
    Mutant(
        "vlan-tag-gained-counted-as-received",
        "dataplane/forward/forward.pyx",
        "(<int64_t>lane.due - lane.first) * lane.gained",
        "0",
        TESTS + "frames_that_are_taken_back_with_their_tag_changed_are_uncounted_as_they_came[pushed-split]",
    ),
    Mutant(
        "vlan-start-of-a-frame-read-again",
        "dataplane/receiveq.pyx",
        "        put_starts(scratch, header_bytes, delivery, i)\n",
        "        pass\n",
        "unit/test_vlan_rewritten.py::test_a_rewritten_header_never_crosses_a_vlan[trunk-plain-2048-one-piece-split]",
    ),
)

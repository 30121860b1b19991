"""Bugs in ports towards this host and towards programs, and in the figures of all ports."""

from tests.mutants.mutant import Mutant

OFFLOADS = "unit/test_endpoint_offloads.py"
AT_THE_DOOR = "unit/test_host_door.py"

MUTANTS = (
    Mutant(
        "packet-frames-beyond-all-room",
        "dataplane/ports/packet.pyx",
        "bytes > FRAME_ROOM - VLAN_TAG_BYTES",
        "False",
        "unit/test_packet_ring.py::"
        "test_a_frame_longer_than_any_port_has_room_for_drops_as_oversize_and_the_next_ones_arrive",
    ),
    Mutant(
        "packet-checksum-before-the-tag",
        "dataplane/ports/packet.pyx",
        "        net.csum_start += VLAN_TAG_BYTES\n",
        "        pass\n",
        "unit/test_packet_ring.py::test_what_a_super_frame_asks_for_counts_from_behind_the_tag_that_is_put_back",
    ),
    Mutant(
        "quiet-tap-read-each-round",
        "dataplane/ports/host_port.pyx",
        "now < queue.look_at",
        "False",
        "unit/test_quiet_queues.py::test_quiet_taps_beside_a_port_with_traffic_are_read_by_time_and_not_by_round",
    ),
    Mutant(
        "endpoint-asks-unchecked",
        "dataplane/ports/endpoint.pyx",
        "not give_head(burst, &burst.frames[n], parcel.bytes, HOST_NEEDS | NEED_USO)",
        "False",
        f"{OFFLOADS}::test_what_a_program_in_cython_asks_wrongly_is_dropped_and_its_buffers_return",
    ),
    Mutant(
        "endpoint-lent-as-before",
        "dataplane/ports/endpoint_slots.pyx",
        "            self.side.headers[parcels[i].slot] = NetHeader(0, 0, 0, 0, 0, 0, 1)\n",
        "            pass\n",
        f"{OFFLOADS}::test_a_received_frame_that_goes_back_says_what_it_said_and_a_buffer_lent_again_is_plain",
    ),
    Mutant(
        "endpoint-sent-without-a-look",
        "dataplane/ports/endpoint.pyx",
        "        own.check_offloads()\n",
        "        pass\n",
        f"{OFFLOADS}::test_a_frame_that_got_another_length_is_refused_when_it_is_sent_and_goes_once_that_is_put_right",
    ),
    Mutant(
        "endpoint-head-not-told",
        "dataplane/ports/endpoint.pyx",
        "            side.headers[slot] = delivery.heads[frames[i].head].net\n",
        "            pass\n",
        f"{OFFLOADS}::test_what_a_program_leaves_to_others_another_one_gets_as_it_was_or_done",
    ),
    Mutant(
        "host-frames-outlive-their-files",
        "dataplane/ports/host_port.pyx",
        "        change.port.epoch += change.lends  # frames of the files before are gone with them\n",
        "        pass\n",
        "unit/test_packet_ring.py::test_frames_of_a_ring_that_another_one_replaced_are_neither_delivered_nor_counted",
    ),
    Mutant(
        "host-memory-kept",
        "dataplane/ports/packet.pyx",
        "            self.holds = False\n            PyBuffer_Release(&self.lent)\n",
        "            pass\n",
        f"{AT_THE_DOOR}::test_what_is_attached_is_let_go_of_once_the_next_is_in_effect[packet]",
    ),
    Mutant(
        "host-sockets-kept",
        "dataplane/ports/xdp.pyx",
        "            socket.in_use = False\n",
        "            pass\n",
        f"{AT_THE_DOOR}::test_what_was_to_be_attached_is_let_go_of_where_a_worker_is_stuck[xdp]",
    ),
    Mutant(
        "endpoint-oversize-copied",
        "dataplane/ports/endpoint.pyx",
        "frames[i].bytes > side.slot_bytes",
        "frames[i].bytes > side.slot_bytes + 64",
        "unit/test_endpoint.py::test_a_frame_longer_than_the_buffers_drops_as_oversize",
    ),
    Mutant(
        "pcap-length-without-its-end",
        "dataplane/ports/pcap_file.pyx",
        "                header.caplen = header.len = parcels[i].bytes\n",
        "                header.caplen = header.len = parcels[i].bytes - 4\n",
        "unit/test_pcap_file.py::test_what_arrives_is_recorded_to_the_last_frame",
    ),
    Mutant(
        "pcap-cut-frames-played",
        "dataplane/ports/pcap_file.pyx",
        "self.header.caplen == self.header.len and self.header.caplen >= ETHER_HEADER_BYTES",
        "self.header.caplen >= ETHER_HEADER_BYTES",
        "unit/test_pcap_file.py::test_frames_that_cannot_be_sent_are_skipped_and_counted",
    ),
    Mutant(
        "endpoint-bytes-not-counted",
        "dataplane/ports/endpoint.pyx",
        "        burst.done[i] = Done(parcel.slot, 0)\n        port.rx[pair].bytes += parcel.bytes\n",
        "        burst.done[i] = Done(parcel.slot, 0)\n",
        "unit/test_endpoint.py::test_frames_arrive_as_they_were_sent_and_in_order",
    ),
)

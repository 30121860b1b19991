"""What the broken back-end can leave out: one switch per class of bug, `--bug NAME`."""

from __future__ import annotations

import os
import signal
import sys

BUGS = {
    # The ring
    "no-head-check": "a head beyond the queue reads whatever lies behind the descriptor table",
    "no-avail-jump-check": "an avail index further ahead than the queue is long is believed",
    "no-loop-bound": "descriptors are followed for ever",
    "no-next-check": "next may lead out of the descriptor table",
    "no-table-bound": "next may lead out of an indirect table",
    "long-chain-refused": "a chain of exactly queue-size descriptors counts as a loop",
    "small-queues-only": "a queue has 1024 descriptors at the most",
    "stale-next": "next is checked where it is not used",
    "twice-is-once": "a head that was the last one too counts as a mistake",
    "table-as-long-as-queue": "an indirect table may not be longer than the queue",
    "aligned-tables-only": "an indirect table at an odd address is refused",
    "page-aligned-offsets": "regions are taken to begin at a page of their file",
    "low-addresses-only": "a region in the upper half of the address space is refused",
    "sloppy-range": "only the first byte of a buffer is checked against its region",
    "range-by-addition": "addr + len is compared, in 64 bits, and may wrap",
    "behind-is-inside": "what lies behind a region in its file counts as the region",
    "nowhere-is-zeros": "addresses outside memory read as zeros",
    "no-region-span": "a buffer over two adjacent regions is refused",
    "nested-indirect": "indirect tables in indirect tables are followed",
    "odd-table": "an indirect table need not be a multiple of 16 bytes, nor hold anything",
    "indirect-and-next": "an indirect descriptor may have a next, which is ignored",
    "indirect-unasked": "indirect descriptors work without the feature",
    "indirect-write-flag": "the write flag of a descriptor that refers to an indirect table is not ignored",
    "indirect-only-first": "an indirect descriptor behind direct ones is refused",
    "write-flag-ignored": "writable and readable descriptors are the same",
    "batch-checks-first": "of four descriptors at once only the first is checked",
    "batch-checks-last": "of four descriptors at once only the last is checked",
    "batch-checks-one-flag": "where one descriptor is available, the next three are taken to be",
    "batch-loses-good": "a bad descriptor breaks the queue before the good ones in front of it were used",
    "wrap-ignored": "a descriptor whose AVAIL and USED flags differ is available, whatever the wrap counter says",
    "used-bit-ignored": "whether a descriptor is available is read off its AVAIL flag alone",
    "gap-skipped": "a descriptor that is not available does not stop what stands behind it",
    "used-wrap-forgotten": "used descriptors are marked as if it were always the first lap",
    "used-steps-one": "the next used descriptor is the one behind, however long the chain was",
    "chain-does-not-wrap": "a chain goes on behind the last descriptor of the ring",
    "marks-whole-chain": "every descriptor of a used chain is marked",
    "address-overwritten": "the address of a used descriptor is overwritten",
    "id-is-an-index": "a buffer id is an index into something as long as the ring",
    "id-only-once": "the same buffer id twice counts as a mistake",
    "id-of-first": "the buffer id is read from the first descriptor of a chain",
    "table-flags-followed": "NEXT and INDIRECT mean something in an indirect table of a packed ring",
    "write-flag-in-table": "WRITE in an indirect table of a packed transmitq breaks the queue",
    "power-of-two-only": "a packed ring's size must be a power of two",
    "mask-for-modulo": "positions in a packed ring are cut off by a mask",
    "base-without-wrap": "the wrap counters in a base are taken to be 1",
    "base-halves-trusted": "the halves of a base that do not belong together end the process",
    "event-offset-trusted": "the offset in an event area is an index",
    "event-flags-trusted": "reserved flags in an event area end the process",
    "event-area-believed": "what the driver writes into the device's own event area is believed",
    "order-trusted": "who promised IN_ORDER is taken to keep it",
    "batch-told-by-first": "a batch in order is returned by the name of its first chain, not of its last",
    "batch-moves-one": "behind a batch in order the next used entry is the very next, however many chains it held",
    "batch-forgets-one": "the last chain of a batch in order is never returned",
    "batch-length": "the one used length of a batch in order is what was read of all of it, not 0",
    "burst-length": "frames of one burst into a packed ring are all returned with the length of the first",
    "receive-batch": "receive buffers are returned as batches in order, and all lengths but the last are lost",
    "double-fetch": "a descriptor is checked, then read again and used",
    # Frames
    "layout-assumed": "header and frame lie in one piece, or in two of which the first is the header",
    "sum-in-32-bits": "the lengths of a chain are added up in 32 bits",
    "unused-fields-checked": "header fields and flags that mean nothing here are refused",
    "short-frames-refused": "a frame shorter than 60 bytes is a runt",
    "room-to-spare": "a receive chain needs one byte more than the frame",
    "empty-piece-ends": "a piece of no bytes ends the chain",
    "no-runt-check": "a chain shorter than header and Ethernet header is a frame",
    "no-oversize-check": "a frame of any length is delivered",
    "no-gso-check": "headers that ask for segmentation or checksums are passed on as plain frames",
    "header-passed-on": "the sender's header is what the receiver gets",
    "receive-room-trusted": "the receive chain is taken to be long enough",
    "merge-count-of-1": "num_buffers is always 1",
    "merge-short-header": "the header may spread over mergeable chains",
    "merge-in-part": "a frame is begun before there are chains for all of it",
    "delivered-uncounted": "a frame that is delivered is not counted",
    "drop-keeps-chain": "the chain of a dropped frame is never returned",
    "no-time-for-others": "a port is served until nothing waits, however long that takes",
    "eager-mapping": "memory is filled when it is mapped",
    "dead-peer-holds": "frames towards a peer that takes none are held for ever",
    # Broken queues and notifications
    "crash-on-bad-ring": "a bad ring ends the process",
    "bad-ring-goes-on": "a bad chain is returned and the queue goes on",
    "no-err-event": "a broken queue does not write its err eventfd",
    "no-recovery": "a broken queue stays broken when it is set up anew",
    "blocking-call": "call and err eventfds are written as they come",
    "write-error-crash": "a call or err eventfd that cannot be written ends the process",
    "kick-read-blocks": "kick eventfds are read as they come",
    "kick-spins": "kick eventfds are watched for ever and never read",
    "log-every-frame": "one line of log per dropped or bad frame",
    # Memory
    "no-fstat": "a region may be larger than its file",
    "no-sigbus": "a file that became shorter kills the process",
    "overlap": "regions may overlap or wrap",
    "stale-memory": "SET_MEM_TABLE leaves running rings in the old memory",
    "table-change-forgets-rings": "SET_MEM_TABLE skips what waits in running rings",
    "removed-region-stays": "REM_MEM_REG removes nothing",
    "absent-region-crash": "removing a region that is not there ends the process",
    "table-length-trusted": "a memory table's count and file descriptors are believed",
    "slots-unchecked": "there may be more regions than slots",
    "memory-leak": "a little of every connection stays in memory",
    "mapping-leak": "regions stay mapped after the connection is gone",
    # Messages
    "fd-leak": "file descriptors that nobody claims stay open",
    "absent-fd-trusted": "a file descriptor that did not come is taken to be number 0",
    "any-file-is-memory": "whatever comes as a region's file is believed to be one",
    "surplus-fds-crash": "a message with more file descriptors than expected ends the process",
    "index-unchecked": "a vring index beyond the queues ends the process",
    "ring-values-unchecked": "ring sizes, bases and addresses are believed",
    "change-while-running": "ring size and base may change under a running queue",
    "payload-size-unchecked": "a payload of another length is taken as if it were right",
    "features-unchecked": "features that were not offered are accepted",
    "ready-too-early": "a ring may start before its memory and addresses are known",
    "answers-block": "while an answer waits for its reader no port is served",
    "header-unchecked": "version, reply bit and size of a message are believed",
    "unknown-flag-crash": "a reserved bit in a message's flags ends the process",
    "pieces-refused": "a message must come in one piece",
    "unknown-request-crash": "an unknown request ends the process",
    "slow-door": "changes stop every port for a while",
    "half-message-blocks": "while a message is half received no port is served",
    "one-for-all": "an error on one connection closes all of them",
    "second-wins": "a second front-end on a busy socket replaces the first",
    "port-dies": "an error on a connection ends its port for good",
    "stats-wait": "statistics wait for every port to be idle",
}

chosen: set[str] = set()


def bug(name: str) -> bool:
    """Whether this check is to be left out."""
    assert name in BUGS, name
    return name in chosen


def die(why: str) -> None:
    """The observable end of a memory error."""
    print("Segmentation fault:", why, file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)

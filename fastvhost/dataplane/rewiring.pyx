"""Changes which lanes workers have, and where these lead, while the workers run.

All of a change takes effect at once, between two bursts, while every worker is at the door: arrays that were made
before are exchanged. Each worker then fills its roster anew. Frames that wait in a lane that leads elsewhere now are
planned again, for the new egress or for nobody. Those in a lane that goes stay with its port.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastvhost.dataplane.bridge cimport Bridge
from fastvhost.dataplane.door cimport Door, Gate, PortDoor
from fastvhost.dataplane.eventfd cimport pollfd
from fastvhost.dataplane.forward.backlog cimport AllBacklogs
from fastvhost.dataplane.forward.backlog_move cimport MovedLanes
from fastvhost.dataplane.forward.vlan cimport PortVlans
from fastvhost.dataplane.forward.waiting cimport Backlogs
from fastvhost.dataplane.idle cimport MORE_FDS
from fastvhost.dataplane.lane_change cimport (
    Change,
    Layout,
    Regrouping,
    Seat,
    Turn,
    do_nothing,
    put_into_effect,
    regroup,
    vacate_seat,
)
from fastvhost.dataplane.port cimport Port
from fastvhost.dataplane.roster cimport NOT_THERE, discard, make_places
from fastvhost.dataplane.wire cimport Wire
from fastvhost.dataplane.worker cimport Part, Worker

from fastvhost.dataplane.door import WorkerStuckError
from fastvhost.dataplane.port import NullPort


cdef class Rewiring:
    """The changes of lanes of one forwarder. For one thread at a time."""

    cdef Door door
    cdef PortDoor entrance     # every worker comes to it
    cdef list workers
    cdef list kept             # ports that left, and that a worker may still look at
    cdef Port nobody       # has the number of a port that left a switch, until no table knows that number
    cdef Change change
    cdef AllBacklogs backlogs

    def __init__(self, Door door not None, workers) -> None:
        cdef Worker worker
        cdef Gate *gate
        if self.door is not None:
            raise ValueError("a Rewiring is made once")
        self.workers, self.kept, self.nobody = list(workers), [], NullPort("nobody")
        for each in self.workers:
            worker = each
            worker.require_idle("a Rewiring is made before its workers start")
        self.door, self.entrance = door, PortDoor(door)
        self.backlogs.of = <Backlogs **>calloc(len(self.workers) + 1, sizeof(Backlogs *))
        if self.backlogs.of == NULL:
            raise MemoryError
        for each in self.workers:
            gate = (<Worker>each).gate
            door.owns(gate, self.entrance)
            self.backlogs.of[self.backlogs.n] = (<Worker>each).backlogs
            self.backlogs.n += 1

    def __dealloc__(self) -> None:
        self.throw_away()
        free(self.backlogs.of)

    cdef void throw_away(self) noexcept:
        cdef uint32_t i
        for i in range(self.change.n_layouts):
            free(self.change.layouts[i].parts)
            free(self.change.layouts[i].fds)
            free(self.change.layouts[i].before)
            discard(&self.change.layouts[i].roster)
        free(self.change.layouts)
        free(self.change.turns)
        free(self.change.seats)
        free(self.change.swept)
        free(self.change.parted)
        free(self.change.moved)
        memset(&self.change, 0, sizeof(self.change))

    def commit(self, *, leave=(), join=(), lead=(), seat=(), uint64_t wait_ms=5000) -> None:
        undo = []
        try:
            self.settle_accounts(leave, join, lead, undo)
            wires = self.prepare(leave, join, lead, wait_ms)
            self.prepare_seats(seat, leave, wait_ms)
            self.pass_door(put_into_effect, &self.change, wait_ms)
            if self.change.refused:
                raise BlockingIOError
        except BaseException:
            for action, *arguments in reversed(undo):
                action(*arguments)
            self.throw_away()
            raise
        for worker, its, shares in wires:
            (<Worker>worker).wires, (<Worker>worker).shares = its, shares
            for wire in leave:
                self.part(worker, wire)
        self.throw_away()

    def move(self, Wire wire not None, workers, *, uint64_t wait_ms=5000) -> bool:
        cdef Worker giver, taker
        self.change.moved = <MovedLanes *>calloc(wire.shares, sizeof(MovedLanes))
        if self.change.moved == NULL:
            raise MemoryError
        for one, share in self.claims_of(wire):
            giver, taker = one, workers[share]
            if taker is not giver:
                self.change.moved[self.change.n_moved] = MovedLanes(
                    wire.lanes, wire.n_lanes, share, wire.shares, giver.backlogs, taker.backlogs
                )
                self.change.n_moved += 1
        try:
            self.commit(leave=[wire], join=[(wire, workers)], wait_ms=wait_ms)
        except BlockingIOError:
            return False
        return True

    def set_vlans(self, Bridge bridge not None, changes, uint64_t wait_ms=5000) -> None:
        cdef Regrouping change = Regrouping(&bridge.members, <uint32_t>len(changes), NULL, NULL, &self.backlogs)
        cdef uint32_t i
        cdef bint first = not bridge.members.tagging
        change.numbers = <uint32_t *>calloc(change.n + 1, sizeof(uint32_t))
        change.vlans = <PortVlans *>calloc(change.n + 1, sizeof(PortVlans))
        try:
            if change.numbers == NULL or change.vlans == NULL:
                raise MemoryError
            for i, (number, native, tagged) in enumerate(changes):
                change.numbers[i] = bridge.port_number(number)
                bridge.read_vlans(&change.vlans[i], number, native, tagged)
            self.pass_door(regroup, &change, wait_ms)
        finally:
            free(change.numbers)
            free(change.vlans)
        bridge.has_vlans = True
        if first:
            bridge.table.flush()
            return
        for number, _, _ in changes:
            bridge.table.flush(port=number)

    def dismiss(self, Port port not None, *, Bridge bridge=None, uint64_t wait_ms=5000) -> None:
        cdef Seat seat
        cdef uint32_t number
        self.kept.append(port)
        if port.entrance is not None:
            self.door.disown(port.entrance)
        if bridge is not None:
            bridge.forget(port)
            number = bridge.number(port)
            seat = Seat(&bridge.members, number, NULL, NULL, False)
            self.pass_door(vacate_seat, &seat, wait_ms)
            bridge.leave(port)
        elif port.entrance is not None:
            self.pass_door(do_nothing, NULL, wait_ms)
        self.kept.clear()

    cdef int settle_accounts(self, leave, join, lead, list undo) except -1:
        """Enter who delivers to which port from now on. undo: calls that take it back, in reverse order."""
        for wire in leave:
            for worker, share in self.claims_of(wire):
                (<Wire>wire).unclaim(share, worker)
                undo.append((_claim, wire, share, worker, self.door))
        led = [(wire, egress, self.claims_of(wire)) for wire, egress in lead]
        for wire, egress, claims in led:
            for worker, share in claims:
                (<Wire>wire).unclaim(share, worker)
                undo.append((_claim, wire, share, worker, self.door))
            undo.append((_turn, wire, (<Wire>wire).egress))
            _turn(wire, egress)
        for wire, _, claims in led:
            for worker, share in claims:
                _claim(wire, share, worker, self.door)
                undo.append((_unclaim, wire, share, worker))
        for wire, workers in join:
            for share, worker in enumerate(workers):
                _claim(wire, share, worker, self.door)
                undo.append((_unclaim, wire, share, worker))
        return 0

    cdef list claims_of(self, wire):
        """The workers of a wire, each with its share."""
        return [
            (worker, share)
            for worker in self.workers
            for one, share in zip((<Worker>worker).wires, (<Worker>worker).shares)
            if one is wire
        ]

    cdef list prepare(self, leave, join, lead, uint64_t wait_ms):
        """Make the arrays, and let changes of ports wait for their new workers. Returns what each worker has then."""
        cdef Worker worker
        wires = []
        for each in self.workers:
            worker = each
            stay = [(wire, share) for wire, share in zip(worker.wires, worker.shares) if wire not in leave]
            new = [
                (wire, share)
                for wire, workers in join
                for share, its in enumerate(workers) if its is worker
            ]
            if new or len(stay) < len(worker.wires):
                wires.append((worker, [wire for wire, _ in stay + new], [share for _, share in stay + new]))
        for wire, workers in [*join, *((wire, [each for each, _ in self.claims_of(wire)]) for wire, _ in lead)]:
            for port in ((<Wire>wire).ingress, (<Wire>wire).egress):
                self.own(port, workers, wait_ms)
            bridge = (<Wire>wire).bridge
            first = {one for one in workers if bridge not in {(<Wire>its).bridge for its in (<Worker>one).wires}}
            for port in bridge.ports if bridge is not None and first else ():
                self.own(port, first, wait_ms, delivers=True)
        self.change.layouts = <Layout *>calloc(len(wires) + 1, sizeof(Layout))
        self.change.turns = <Turn *>calloc(len(lead) + 1, sizeof(Turn))
        self.change.parted = <Turn *>calloc(len(leave) + 1, sizeof(Turn))
        if self.change.layouts == NULL or self.change.turns == NULL or self.change.parted == NULL:
            raise MemoryError
        for each, its, shares in wires:
            self.change.n_layouts += 1
            self.arrange(&self.change.layouts[self.change.n_layouts - 1], each, its, shares)
        for wire, _ in lead:
            self.point(&self.change.turns[self.change.n_turns], wire)
            self.change.n_turns += 1
        for wire in set(leave) - {wire for wire, _ in join}:  # of a move, who has the lanes then lets them in
            self.point(&self.change.parted[self.change.n_parted], wire)
            self.change.n_parted += 1
        return wires

    cdef int point(self, Turn *turn, Wire wire) except -1:
        cdef Port egress = wire.egress
        turn.lanes, turn.n_lanes = wire.lanes, wire.n_lanes
        turn.egress = NULL if egress is None else &egress.ops
        return 0

    cdef int prepare_seats(self, seat, leave, uint64_t wait_ms) except -1:
        """All workers of a switch deliver to a port that gets a number there."""
        cdef Bridge bridge
        cdef Seat *one
        swept = [
            wire
            for worker in self.workers
            for wire, share in zip((<Worker>worker).wires, (<Worker>worker).shares)
            if share == 0 and (<Wire>wire).bridge is not None and wire not in leave
        ]
        self.change.seats = <Seat *>calloc(len(seat) + 1, sizeof(Seat))
        self.change.swept = <Turn *>calloc(len(swept) + 1, sizeof(Turn))
        self.change.backlogs = &self.backlogs
        if self.change.seats == NULL or self.change.swept == NULL:
            raise MemoryError
        for each, number, port in seat:
            bridge = each
            self.own(port, set(bridge.workers), wait_ms, delivers=True)
            one = &self.change.seats[self.change.n_seats]
            one.number = bridge.port_number(number)
            one.members, one.tagging = &bridge.members, bridge.has_vlans
            self.take(one, port)
            self.change.n_seats += 1
        for wire in swept:
            self.point(&self.change.swept[self.change.n_swept], wire)
            self.change.n_swept += 1
        return 0

    cdef int take(self, Seat *seat, Port port) except -1:
        """Somebody, or nobody instead of who is there."""
        seat.port = &self.nobody.ops if port is None else &port.ops
        seat.before = seat.members.at[seat.number].port if port is None else NULL
        return 0

    cdef int part(self, Worker worker, Wire wire) except -1:
        """Changes of ports of which a worker has no lanes any more do not wait for it, unless it delivers to them."""
        cdef Port port
        for each in (wire.ingress, wire.egress):
            port = each
            if port is None or port.entrance is None:
                continue
            if not any(port in ((<Wire>one).ingress, (<Wire>one).egress) for one in worker.wires):
                self.door.parts_with(worker.gate, port.entrance, wire.bridge is not None)
        return 0

    cdef int own(self, Port port, workers, uint64_t wait_ms, bint delivers=False) except -1:
        """Changes of a port wait for these workers, too. delivers: they only deliver to it, as all of a switch do."""
        cdef uint64_t wait_ns = wait_ms * 1000000
        cdef PortDoor entrance
        cdef Gate *gate
        cdef bint done
        if port is None or port.entrance is None:
            return 0
        entrance = port.entrance
        for worker in workers:
            gate = (<Worker>worker).gate
            if delivers:
                self.door.delivers(gate, entrance)
            else:
                self.door.owns(gate, entrance)
        with nogil:
            done = entrance.await_owners(wait_ns)
        if not done:
            raise WorkerStuckError(f"port {port.name}: a change of it has not taken effect yet; try again later")
        return 0

    cdef int arrange(self, Layout *layout, Worker worker, list wires, list shares) except -1:
        cdef uint32_t i, lanes = 0
        cdef Wire wire
        layout.parts_of, layout.n_parts_of = &worker.parts, &worker.n_parts
        layout.roster_of, layout.fds_of = &worker.roster, &worker.idle.fds
        layout.n_parts = <uint32_t>len(wires)
        layout.parts = <Part *>calloc(len(wires) + 1, sizeof(Part))
        layout.before = <uint32_t *>calloc(len(wires) + 1, sizeof(uint32_t))
        if layout.parts == NULL or layout.before == NULL:
            raise MemoryError
        for i in range(layout.n_parts):
            wire = wires[i]
            layout.parts[i] = Part(wire.lanes, wire.n_lanes, shares[i], wire.shares)
            layout.before[i] = worker.wires.index(wire) if wire in worker.wires else NOT_THERE
            lanes += wire.n_lanes
        make_places(&layout.roster, lanes, layout.n_parts)
        layout.fds = <pollfd *>calloc(lanes + MORE_FDS, sizeof(pollfd))
        if layout.fds == NULL:
            raise MemoryError
        return 0

    cdef int pass_door(self, void (*apply)(void *what) noexcept nogil, void *what, uint64_t wait_ms) except -1:
        cdef bint back
        if self.entrance.pass_through(apply, what, wait_ms * 1000000):
            return 0
        late = self.entrance.who_is_late()
        with nogil:
            back = self.entrance.withdraw()
        if back:
            raise WorkerStuckError(late)
        self.entrance.pass_through(apply, what, 0)  # it has just taken effect
        return 0


def _claim(Wire wire not None, share, worker, door):
    wire.claim(share, worker, door)


def _unclaim(Wire wire not None, share, worker):
    wire.unclaim(share, worker)


def _turn(Wire wire not None, Port egress):
    wire.egress = egress

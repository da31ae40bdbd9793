"""The client's ledger: whatever order facts come in, no row is lost and no result is told twice."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gym_ray.client.errors import ResultsMissing
from gym_ray.client.ledger import REOPENINGS, ClientLedger


def ledger(most: int = 10) -> ClientLedger:
    made = ClientLedger()
    made.opened()
    made.most = most
    return made


def taken(made: ClientLedger, *indices: int) -> None:
    for index in indices:
        made.take(index, b"row %d" % index)


def test_nothing_is_taken_before_the_batch_is_open() -> None:
    assert not ClientLedger().has_room


def test_rows_are_sent_in_order_within_what_a_request_holds() -> None:
    made = ledger()
    taken(made, 0, 1, 2, 3)

    assert made.to_send(3, 1000) == [0, 1, 2]
    assert made.to_send(3, 1000) == [3]
    taken(made, 4, 5)
    assert made.to_send(3, 1) == [4], "one row, however large, is always sent"


def test_a_result_is_new_once_and_makes_room_when_it_is_acknowledged() -> None:
    made = ledger(most=1)
    taken(made, 0)

    assert not made.has_room
    assert [made.receive(0), made.receive(0), made.receive(7)] == [True, False, False]
    assert not made.has_room
    made.handled([0])
    assert made.to_acknowledge(5) == [0]
    made.acknowledged([0])
    assert made.has_room
    assert not made.has_to_acknowledge


def test_what_was_acknowledged_in_an_earlier_call_is_neither_awaited_nor_in_the_way() -> None:
    made = ledger(most=2)
    taken(made, 0, 1)
    made.to_send(9, 99)

    made.acknowledged_before([0, 5])
    made.sent()

    assert (made.outstanding, made.has_room) == (1, True)
    assert made.rows([0, 1]) == [(1, b"row 1")]


def test_it_is_complete_when_all_is_taken_and_here() -> None:
    made = ledger()
    taken(made, 0)
    made.receive(0)
    assert not made.complete
    made.took_all()
    assert made.complete


def test_a_batch_that_is_opened_again_gets_everything_outstanding_from_the_beginning() -> None:
    made = ledger()
    taken(made, 0, 1, 2)
    made.to_send(9, 99)
    made.sent()
    assert made.read(made.epoch, 40)
    made.receive(1)
    before = made.epoch

    made.opened()

    assert (made.cursor, made.to_send(9, 99)) == (0, [0, 2])
    assert not made.read(before, 90), "a page of the lost batch, with its cursor"
    assert made.cursor == 0


def test_rows_are_missing_only_when_nobody_has_them() -> None:
    made = ledger()
    taken(made, 0, 1)
    assert made.missing(pending=0) == [], "they are to be sent yet"
    made.to_send(9, 99)
    assert made.missing(pending=0) == [], "they are on their way"
    made.sent()
    assert made.missing(pending=2) == [], "the service runs them"
    assert made.missing(pending=0) == [0, 1]
    made.give_again([0, 1])
    assert made.to_send(9, 99) == [0, 1]


def test_a_service_that_forgets_again_and_again_is_given_up() -> None:
    made = ledger()
    taken(made, 0, 1)
    for _ in range(REOPENINGS):
        made.lost("gone")
    made.receive(0)
    for _ in range(REOPENINGS):
        made.lost("gone")

    with pytest.raises(ResultsMissing, match="gone"):
        made.lost("gone")


class Machine(RuleBasedStateMachine):
    """A client and a service that forgets, in any order of events."""

    @initialize(most=st.integers(1, 6))
    def open(self, most: int) -> None:
        self.ledger = ClientLedger()
        self.ledger.opened()
        self.ledger.most = self.most = most
        self.next_index = 0
        self.being_sent: list[int] = []
        self.service: dict[int, bool] = {}  # Index: whether its result is there.
        self.told: list[int] = []
        self.to_handle: list[int] = []
        self.acknowledged: set[int] = set()

    @precondition(lambda self: self.ledger.has_room and self.next_index < 30)
    @rule()
    def take(self) -> None:
        self.ledger.take(self.next_index, b"x" * self.next_index)
        self.next_index += 1

    @precondition(lambda self: self.ledger.has_to_send and not self.being_sent)
    @rule(rows=st.integers(1, 4))
    def send(self, rows: int) -> None:
        self.being_sent = self.ledger.to_send(rows, 1000)
        if not self.being_sent:
            self.ledger.sent()

    @precondition(lambda self: self.being_sent)
    @rule()
    def arrive(self) -> None:
        given = [index for index, _ in self.ledger.rows(self.being_sent)]
        known = [index for index in given if index in self.acknowledged]
        for index in given:
            if index not in self.acknowledged:
                self.service.setdefault(index, False)
        self.ledger.acknowledged_before(known)
        self.ledger.sent()
        self.being_sent = []

    @precondition(lambda self: not all(self.service.values()))
    @rule()
    def finish(self) -> None:
        index = next(index for index, done in self.service.items() if not done)
        self.service[index] = True

    @rule()
    def fetch(self) -> None:
        done = [index for index, done in self.service.items() if done]
        assert self.ledger.read(self.ledger.epoch, len(done))
        for index in done:
            if self.ledger.receive(index):
                self.told.append(index)
                self.to_handle.append(index)
        if not done:
            pending = sum(not done for done in self.service.values())
            self.ledger.give_again(self.ledger.missing(pending))

    @precondition(lambda self: self.to_handle)
    @rule()
    def handle(self) -> None:
        self.ledger.handled([self.to_handle.pop(0)])

    @precondition(lambda self: self.ledger.has_to_acknowledge)
    @rule(reaches=st.booleans(), answered=st.booleans())
    def acknowledge(self, reaches: bool, answered: bool) -> None:
        """The request, or its answer, may get lost on the way."""
        indices = self.ledger.to_acknowledge(3)
        if reaches or answered:
            self.acknowledged.update(indices)
            for index in indices:
                self.service.pop(index, None)
        if answered:
            self.ledger.acknowledged(indices)

    @rule()
    def forget(self) -> None:
        """The service is restarted; what it knew is gone, but for what was acknowledged."""
        self.service.clear()
        self.ledger.opened()

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "ledger"):
            return
        assert len(self.told) == len(set(self.told))
        assert self.ledger.outstanding == self.next_index - len(self.told)
        assert self.next_index - len(self.acknowledged) <= self.most
        if self.ledger.epoch == 1:
            known = set(self.service) | set(self.told) | set(self.being_sent)
            queued = set(range(self.next_index)) - known
            assert not queued or self.ledger.has_to_send, "a row nobody has and nobody sends"

    def teardown(self) -> None:
        """From wherever it stands, everything comes to an end."""
        if not hasattr(self, "ledger"):
            return
        self.ledger.took_all()
        for _ in range(200):
            if self.being_sent:
                self.arrive()
            elif self.ledger.has_to_send:
                self.send(4)
            elif not all(self.service.values()):
                self.finish()
            else:
                self.fetch()
            while self.to_handle:
                self.handle()
            while self.ledger.has_to_acknowledge:
                self.acknowledge(True, True)
        assert self.ledger.complete
        assert sorted(self.told) == list(range(self.next_index))


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = Machine.TestCase

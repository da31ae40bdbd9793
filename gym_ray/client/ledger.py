"""Where every row of a batch stands, as its client knows it: taken, sent, here, acknowledged.

A pure state machine: facts are pushed in (a row was taken, a page came, the service has lost the
batch), decisions come out (what to send, what to acknowledge, whether all is there). It owns no
connection, no task and no clock. Invariants:
* a row is outstanding from when it is taken until its result is here, or the service says it was
  acknowledged before; the batch is complete only when nothing is outstanding;
* a result is new at most once: one of a row that is not outstanding is none;
* rows taken and not acknowledged are at most `most`;
* whenever the batch is opened, everything outstanding is to be sent (again).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from gym_ray.client.errors import ResultsMissing

#: How often in a row the service may forget a batch, or rows, with no result in between.
REOPENINGS = 5


class ClientLedger:
    """The rows of one batch.

    Attributes:
        most: rows that may be taken and not acknowledged; none before the batch is opened.
        epoch: how often the batch was opened; what was asked in an earlier one says nothing.
        cursor: where the results go on that this epoch has not seen.
    """

    def __init__(self) -> None:
        self.most = 0
        self.epoch = 0
        self.cursor = 0
        self._outstanding: dict[int, bytes] = {}
        self._done = 0
        self._unacknowledged: set[int] = set()
        self._to_send: deque[int] = deque()
        self._being_sent = False
        self._to_acknowledge: list[int] = []
        self._taken_all = False
        self._forgotten = 0

    # What there is to do.

    @property
    def has_room(self) -> bool:
        """Whether another row may be taken."""
        return len(self._unacknowledged) < self.most

    @property
    def outstanding(self) -> int:
        """Rows whose results are not here."""
        return len(self._outstanding)

    @property
    def done(self) -> int:
        """Rows whose results are here, or were acknowledged before this call."""
        return self._done

    @property
    def taken(self) -> int | None:
        """Rows there are in all; None while there may be more."""
        return self._done + len(self._outstanding) if self._taken_all else None

    @property
    def complete(self) -> bool:
        """Whether every result that was asked for is here."""
        return self._taken_all and not self._outstanding

    @property
    def has_to_send(self) -> bool:
        return bool(self._to_send)

    @property
    def has_to_acknowledge(self) -> bool:
        return bool(self._to_acknowledge)

    def to_acknowledge(self, most: int) -> list[int]:
        """Indices to acknowledge; they stay until `acknowledged`."""
        return self._to_acknowledge[:most]

    def to_send(self, most_rows: int, most_bytes: int) -> list[int]:
        """Indices to send now, in order; they count as being sent until `sent`."""
        indices: set[int] = set()
        size = 0
        while self._to_send and len(indices) < most_rows and size < most_bytes:
            index = self._to_send.popleft()
            if index in self._outstanding and index not in indices:
                indices.add(index)
                size += len(self._outstanding[index])
        self._being_sent = True
        return sorted(indices)

    def rows(self, indices: Iterable[int]) -> list[tuple[int, bytes]]:
        """Those of the rows that are still outstanding."""
        return [(i, self._outstanding[i]) for i in indices if i in self._outstanding]

    def missing(self, pending: int) -> list[int]:
        """Rows the service knows nothing of.

        Args:
            pending: how many it says it still has to finish, on a page without results.
        """
        if pending or self._being_sent or self._to_send:
            return []
        return sorted(self._outstanding)

    # Facts.

    def opened(self) -> None:
        """The service holds the batch, perhaps anew: everything is counted from the beginning."""
        self.epoch += 1
        self.cursor = 0
        self._to_send.extend(self._outstanding)

    def take(self, index: int, row: bytes) -> None:
        """A row was taken from the caller's tasks."""
        self._outstanding[index] = row
        self._unacknowledged.add(index)
        self._to_send.append(index)

    def took_all(self) -> None:
        """There are no more tasks."""
        self._taken_all = True

    def acknowledged_before(self, indices: Sequence[int]) -> None:
        """The service says that the results of these were acknowledged before this call."""
        for index in indices:
            if self._outstanding.pop(index, None) is not None:
                self._unacknowledged.discard(index)
                self._done += 1

    def sent(self) -> None:
        """What was being sent is with the service."""
        self._being_sent = False

    def read(self, epoch: int, cursor: int) -> bool:
        """A page came; whether its results count, which those of an earlier epoch do not."""
        if epoch != self.epoch:
            return False
        self.cursor = max(self.cursor, cursor)
        return True

    def receive(self, index: int) -> bool:
        """A result came; whether it is new."""
        if self._outstanding.pop(index, None) is None:
            return False
        self._done += 1
        self._forgotten = 0
        return True

    def handled(self, indices: Iterable[int]) -> None:
        """The caller has these for good, of this call or of an earlier one."""
        self._to_acknowledge += indices

    def acknowledged(self, indices: Sequence[int]) -> None:
        """The service knows that the caller has the first of `to_acknowledge`."""
        del self._to_acknowledge[: len(indices)]
        self._unacknowledged.difference_update(indices)

    def lost(self, message: str) -> None:
        """The service has forgotten the batch, or rows of it.

        Raises:
            ResultsMissing: too often, with no result in between.
        """
        self._forgotten += 1
        if self._forgotten > REOPENINGS:
            raise ResultsMissing(message)

    def give_again(self, indices: Sequence[int]) -> None:
        """Send these once more."""
        self._to_send.extend(indices)

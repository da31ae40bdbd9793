"""The writer: every rollout durable once, in few files, in bounded time and memory."""

import asyncio
import dataclasses
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gym_ray.rollout import Rollout
from gym_ray.store.segments import SegmentStore
from gym_ray.store.stored_run import read_rollouts
from gym_ray.store.writer import FlushRules, SegmentWriter, UnfitRollout
from tests.calls import eventually

MakeRollout = Callable[..., Rollout]

#: Nothing is written because of time.
NEVER = 3600.0


class Store(SegmentStore):
    """A store in memory that writes when it may.

    Attributes:
        segments: what was written, a block and its rollouts at a time.
        may_write: cleared, writing waits.
        broken: writing fails.
    """

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))
        self.segments: list[tuple[str, list[str]]] = []
        self.may_write = threading.Event()
        self.may_write.set()
        self.broken = False
        self.writing: Counter[str] = Counter()

    def write(self, block: str, rollouts: Sequence[Rollout]) -> None:
        self.writing[block] += 1
        assert self.writing[block] == 1
        self.may_write.wait(30)
        self.writing[block] -= 1
        if self.broken:
            raise OSError("no room")
        self.segments.append((block, [rollout.spec.rollout_id for rollout in rollouts]))

    def durable(self, block: str) -> set[str]:
        return {rollout for name, ids in self.segments if name == block for rollout in ids}


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(bounded())


def ids_of(rollouts: Sequence[Rollout]) -> list[str]:
    return [rollout.spec.rollout_id for rollout in rollouts]


def test_a_complete_block_is_written_at_once_and_no_other(make_rollout: MakeRollout) -> None:
    store = Store()

    async def scenario() -> None:
        writer = SegmentWriter(store, FlushRules(rollouts=100, seconds=NEVER))
        first = [make_rollout(0, n) for n in range(3)]
        assert await writer.open("first", ids_of(first)) == set()
        await writer.open("second", ["another"])
        other = asyncio.ensure_future(writer.add("other", make_rollout(1)))
        await asyncio.gather(*(writer.add("first", rollout) for rollout in first))
        assert store.segments == [("first", ids_of(first))]
        assert not other.done()
        await writer.close()
        assert other.done()

    run(scenario)


def test_all_blocks_are_written_once_enough_waits(make_rollout: MakeRollout) -> None:
    store = Store()

    async def scenario() -> None:
        writer = SegmentWriter(store, FlushRules(rollouts=4, seconds=NEVER))
        rollouts = [make_rollout(n) for n in range(4)]
        adding = [writer.add(f"block {n % 2}", rollout) for n, rollout in enumerate(rollouts)]
        await asyncio.gather(*adding)
        assert sorted(store.segments) == [
            ("block 0", ids_of(rollouts[::2])),
            ("block 1", ids_of(rollouts[1::2])),
        ]
        assert writer.unwritten == 0

    run(scenario)


def test_large_rollouts_are_written_sooner_and_in_more_files(make_rollout: MakeRollout) -> None:
    store = Store()
    tokens = np.zeros(1000, dtype=np.int32)
    large = {
        "token_ids": tokens,
        "loss_mask": tokens.astype(np.int8),
        "logprobs": tokens.astype(np.float32),
    }

    async def scenario() -> None:
        rollouts = [make_rollout(n, **large) for n in range(5)]
        size = rollouts[0].memory_bytes
        writer = SegmentWriter(store, FlushRules(rollouts=100, seconds=NEVER, bytes=5 * size))
        await asyncio.gather(*(writer.add("block", rollout) for rollout in rollouts))
        writer = SegmentWriter(store, FlushRules(rollouts=5, seconds=NEVER, bytes=5 * size // 2))
        await asyncio.gather(*(writer.add("block", rollout) for rollout in rollouts))

    run(scenario)
    assert [len(ids) for _, ids in store.segments] == [5, 2, 2, 1]


def test_nothing_waits_longer_than_the_rules_say(make_rollout: MakeRollout) -> None:
    store = Store()

    async def scenario() -> None:
        writer = SegmentWriter(store, FlushRules(rollouts=100, seconds=0.05))
        await asyncio.gather(*(writer.add("block", make_rollout(n)) for n in range(3)))
        await writer.add("block", make_rollout(3))

    run(scenario)
    assert [len(ids) for _, ids in store.segments] == [3, 1]


def test_what_finishes_while_a_block_is_written_shares_its_next_file(
    make_rollout: MakeRollout,
) -> None:
    store = Store()
    store.may_write.clear()

    async def scenario() -> None:
        writer = SegmentWriter(store, FlushRules(rollouts=1, seconds=NEVER))
        adding = [asyncio.ensure_future(writer.add("block", make_rollout(0)))]
        await eventually(lambda: store.writing["block"] == 1)
        adding += [asyncio.ensure_future(writer.add("block", make_rollout(n))) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        assert writer.unwritten == 4
        store.may_write.set()
        await asyncio.gather(*adding)

    run(scenario)
    assert [len(ids) for _, ids in store.segments] == [1, 3]


def test_a_block_knows_what_is_durable_already(make_rollout: MakeRollout) -> None:
    store = Store()
    rollouts = [make_rollout(n) for n in range(3)]

    async def scenario() -> None:
        await SegmentWriter(store, FlushRules(1, NEVER)).add("block", rollouts[0])
        writer = SegmentWriter(store, FlushRules(100, NEVER))
        assert await writer.open("block", ids_of(rollouts)) == set(ids_of(rollouts[:1]))
        await asyncio.gather(*(writer.add("block", rollout) for rollout in rollouts[1:]))

    run(scenario)


def test_a_store_that_cannot_be_written_is_an_error_for_all_and_not_the_end(
    make_rollout: MakeRollout,
) -> None:
    store = Store()
    store.broken = True

    async def scenario() -> None:
        writer = SegmentWriter(store, FlushRules(2, NEVER))
        adding = [writer.add_or_failure("block", make_rollout(n)) for n in range(2)]
        errors = await asyncio.gather(*adding, return_exceptions=True)
        assert [type(error) for error in errors] == [OSError, OSError]
        assert writer.unwritten == 0
        store.broken = False
        await asyncio.gather(*(writer.add("block", make_rollout(n)) for n in range(2)))

    run(scenario)
    assert len(store.segments) == 1


def test_a_rollout_no_file_can_hold_becomes_a_failed_one_where_it_must_not_be_missing(
    tmp_path: Path, make_rollout: MakeRollout
) -> None:
    unfit = make_rollout(1, metrics={"\ud800": 1.0})

    async def scenario() -> None:
        writer = SegmentWriter(SegmentStore(tmp_path / "segments"), FlushRules(2, 0.01))
        with pytest.raises(UnfitRollout, match="fits no file"):
            await writer.add("block", unfit)
        adding = [writer.add_or_failure("block", rollout) for rollout in (make_rollout(0), unfit)]
        await asyncio.gather(*adding)

    run(scenario)
    kept, failed = read_rollouts(tmp_path)
    assert kept.status == "completed"
    assert (failed.spec, failed.status, failed.error_kind) == (
        unfit.spec,
        "failed",
        "environment_error",
    )
    assert (failed.agent, failed.model, failed.run_id) == (unfit.agent, unfit.model, unfit.run_id)


@settings(max_examples=40)
@given(
    blocks=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    rules=st.builds(
        FlushRules,
        rollouts=st.integers(1, 20),
        seconds=st.sampled_from([0.0, 0.001, 0.01]),
        bytes=st.sampled_from([1, 10_000, 10**9]),
    ),
    given_up=st.sets(st.integers(0, 59)),
    opened=st.sets(st.integers(0, 3)),
)
def test_every_rollout_is_durable_once_whatever_the_order(
    blocks: list[int], rules: FlushRules, given_up: set[int], opened: set[int]
) -> None:
    from tests.stored import sum_rollout

    store = Store()
    template = sum_rollout(0, reply="0")
    rollouts = [
        dataclasses.replace(template, spec=dataclasses.replace(template.spec, rollout_id=str(n)))
        for n in range(len(blocks))
    ]

    async def scenario() -> None:
        writer = SegmentWriter(store, rules)
        for block in opened:
            await writer.open(str(block), [str(n) for n, own in enumerate(blocks) if own == block])
        adding = []
        for number, block in enumerate(blocks):
            adding.append(asyncio.ensure_future(writer.add(str(block), rollouts[number])))
            if number % 3 == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        for number in given_up & set(range(len(adding))):
            adding[number].cancel()
        await asyncio.gather(*adding, return_exceptions=True)
        await writer.close()
        assert writer.unwritten == 0

    run(scenario)
    written = [(rollout, block) for block, ids in store.segments for rollout in ids]
    assert sorted(written) == sorted((str(n), str(block)) for n, block in enumerate(blocks))

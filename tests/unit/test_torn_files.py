"""Files of a run that a disk or a copy changed: noticed, named, and run again where they can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gym_ray.collection.manifest import Manifest, specs_to_table
from gym_ray.errors import ConfigError, FileTorn
from gym_ray.store.index import Index
from gym_ray.store.places import parquet_file, write_table_whole
from gym_ray.store.rows import to_table
from gym_ray.store.segments import SegmentStore
from gym_ray.store.stored_run import StoredRun, read_rollouts
from tests.stored import stored_run, sum_rollout

ROLLOUTS = [sum_rollout(n, reply=str(2 * n)) for n in range(6)]

MUTATIONS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "only the end": lambda content: content[len(content) // 2 :],
    "text": lambda content: b"no Parquet file\n" * 20,
    "pages of zeros": lambda content: bytes(_footer(content)) + content[_footer(content) :],
    "something else": lambda content: _parquet(pa.table({"a": [1]})),
    "other types": lambda content: _parquet(
        pa.table({name: [1] for name in to_table(ROLLOUTS[:1]).column_names})
    ),
}


def _footer(content: bytes) -> int:
    """Where the pages of a Parquet file end."""
    return len(content) - 8 - int.from_bytes(content[-8:-4], "little")


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def mutated(path: Path, name: str) -> None:
    path.write_bytes(MUTATIONS[name](path.read_bytes()))


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_shard_that_is_not_whole_is_named(tmp_path: Path, name: str) -> None:
    run = stored_run(tmp_path / "run", ROLLOUTS)
    (shard,) = (run / "rollouts").glob("*.parquet")
    mutated(shard, name)
    for use in (
        lambda: Index.read([shard]),
        lambda: list(read_rollouts(run)),
        lambda: StoredRun(run).counts(),
    ):
        with pytest.raises(ConfigError) as error:
            use()
        assert str(shard) in str(error.value)


@pytest.mark.parametrize("name", [name for name in MUTATIONS if name != "other types"])
def test_a_manifest_that_is_not_whole_is_named(tmp_path: Path, name: str) -> None:
    manifest = tmp_path / "manifest.parquet"
    write_table_whole(manifest, specs_to_table([rollout.spec for rollout in ROLLOUTS]))
    assert StoredRun(tmp_path).expected == {"arithmetic": 6}
    mutated(manifest, name)
    with pytest.raises(FileTorn, match=str(manifest)):
        _ = StoredRun(tmp_path).expected
    with pytest.raises(FileTorn, match=str(manifest)):
        Manifest.read(manifest)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_segment_that_is_not_whole_is_set_aside_and_the_others_stay(
    tmp_path: Path, name: str
) -> None:
    store = SegmentStore(tmp_path / "segments")
    for number, rollout in enumerate(ROLLOUTS):
        store.write(f"b{number % 2}", [rollout])
    files = list(store.files())
    mutated(files[3], name)
    content = files[3].read_bytes()

    (aside,) = store.set_aside_torn()

    assert aside.read_bytes() == content
    assert list(store.files()) == [file for file in files if file != files[3]]
    assert len(Index.read(list(store.files())).table) == 5
    assert store.set_aside_torn() == []


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flips") / "rollouts.parquet"
    write_table_whole(path, to_table(ROLLOUTS))
    return path


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_flipped_bit_is_noticed_or_changes_nothing(file: Path, data: st.DataObject) -> None:
    content = bytearray(file.read_bytes())
    footer = _footer(content)
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    flipped = file.with_name("flipped.parquet")
    flipped.write_bytes(bytes(content))
    try:
        table = parquet_file(flipped).read()
        same = table.equals(to_table(ROLLOUTS))
    except FileTorn as torn:
        same = str(flipped) in str(torn)
    except (MemoryError, UnicodeDecodeError):
        same = False
    assert same or bit // 8 >= footer  # Parquet has no checksum of its footer.

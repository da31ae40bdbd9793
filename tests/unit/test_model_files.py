"""Where a model's files are, told before anything is loaded: folders, and a Hub on this machine."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from gym_ray.errors import ConfigError
from gym_ray.renderers.model_files import require_model
from gym_ray.renderers.tokenizers import load_tokenizer
from tests.hub_server import HubServer

NEEDS = (("config.json", "params.json"), ("*.safetensors", "*.bin"))


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add("acme/model", {"config.json": b"{}"})
        server.add("acme/secret", {"config.json": b"{}"}, private=True)
        server.add("acme/empty", {"README.md": b"no model"})
        yield server


@pytest.fixture
def hub(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The Hub that is asked, and an empty cache of it."""
    asks(monkeypatch, server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    server.asked.clear()
    yield server
    server.mend()


def asks(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """As `HF_ENDPOINT` before the client is imported."""
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def refusal(model: str, **how: object) -> str:
    with pytest.raises(ConfigError) as caught:
        require_model(model, **how)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def whole(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model-00001-of-00001.safetensors").write_bytes(b"")


def cached(hub_cache: Path, model: str, revision: str) -> None:
    """What the Hub's client leaves of a model it has fetched."""
    folder = hub_cache / f"models--{model.replace('/', '--')}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").write_text("{}")
    (folder / "refs").mkdir()
    (folder / "refs" / revision).write_text("abc")


@pytest.mark.parametrize("model", ["./model", "../here/model", "~/model", "a/b/model", "/no/model"])
def test_a_path_is_never_asked_of_the_hub(hub: HubServer, model: str) -> None:
    assert refusal(model, key="judges.strict.model").startswith(
        f"judges.strict.model {model!r} is not a directory"
    )
    assert hub.count("HEAD", "*") == 0


def test_the_nearest_folder_is_named(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(tmp_path / "models" / "qwen-tuned")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert "did you mean './models/qwen-tuned'?" not in refusal("./models/other")
    assert refusal("./models/qwen-tuend").endswith("; did you mean 'models/qwen-tuned'?")
    assert f"write '{tmp_path}/models/qwen-tuned'" in refusal("~/models/qwen-tuned")


@pytest.mark.parametrize(
    ("missing", "says"),
    [("config.json", "no config.json nor params.json"), ("model-*", "no *.safetensors nor *.bin")],
)
def test_a_folder_that_is_no_checkpoint_says_what_it_lacks(
    tmp_path: Path, missing: str, says: str
) -> None:
    model = tmp_path / "model"
    whole(model)
    require_model(str(model), needs=NEEDS)
    next(model.glob(missing)).unlink()

    assert says in refusal(str(model), needs=NEEDS)
    whole(model / "checkpoint-100")
    assert f"did you mean '{model}/checkpoint-100'?" in refusal(str(model), needs=NEEDS)


@pytest.mark.parametrize("model", ["", " ", "a b", "org/", "/", "org/model:latest", "ämlich/x"])
def test_what_can_be_no_name_is_not_asked_of_the_hub(hub: HubServer, model: str) -> None:
    if not Path(model).is_dir():
        assert repr(model) in refusal(model)
    assert hub.count("HEAD", "*") == 0


def test_a_model_of_the_hub_is_asked_for_once(hub: HubServer) -> None:
    require_model("acme/model")
    require_model("acme/empty")  # Whether its files do is the engine's to tell.
    assert hub.count("HEAD", "*") == 2


def test_what_is_in_the_cache_is_not_asked_for(hub: HubServer, tmp_path: Path) -> None:
    cached(tmp_path / "hub", "acme/absent", "main")
    require_model("acme/absent")
    assert hub.count("HEAD", "*") == 0


@pytest.mark.parametrize("model", ["acme/nothing", "acme/secret"])
def test_what_the_hub_does_not_have_or_show_is_said(hub: HubServer, model: str) -> None:
    assert "the Hub has no such model; for one that is private, set HF_TOKEN" in refusal(model)


def test_a_revision_that_is_none_is_named(hub: HubServer) -> None:
    require_model("acme/model", revision="main")
    assert "has no revision 'v2' of it" in refusal("acme/model", revision="v2")


def test_offline_only_the_cache_counts(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal("acme/model")
    assert hub.count("HEAD", "*") == 0


@pytest.mark.parametrize("check", [require_model, load_tokenizer])
def test_without_a_network_it_is_tried_twice_and_told_at_once(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, check: Callable[[str], None]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Nobody listens there.
        asks(monkeypatch, f"http://127.0.0.1:{taken.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(ConfigError, match="cannot be reached") as caught:
            check("acme/model")
    # The libraries' own tries take 23 s a file.
    assert time.monotonic() - began < 10
    assert "'acme/model' is no folder here and not in the Hub's cache" in str(caught.value)


def test_a_connection_that_breaks_once_is_no_refusal(hub: HubServer) -> None:
    fault = hub.break_next("HEAD", "/acme/model/*")
    require_model("acme/model")
    assert fault.hit.is_set()


def test_a_hub_that_is_not_well_is_left_to_those_who_wait_for_it(hub: HubServer) -> None:
    hub.break_next("HEAD", "/acme/model/*", 503)
    require_model("acme/model")


@pytest.mark.parametrize("model", ["s3://bucket/model", "gs://bucket/model"])
def test_other_addresses_are_the_engines(hub: HubServer, model: str) -> None:
    require_model(model)
    assert hub.count("HEAD", "*") == 0

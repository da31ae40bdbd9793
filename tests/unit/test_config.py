"""Configuration: what is refused and how, what overrides do, what a resumed run may change."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gym_ray.config.changes import GROWING_KEYS, TUNING_KEYS, differing_keys
from gym_ray.config.load import RunConfig, load_config, resolve
from gym_ray.errors import ConfigError
from gym_ray.serving.application import application_name

SMALLEST: dict[str, Any] = {"environments": {"math": {}}}


def refusal(source: Any, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    return str(caught.value)


def dumped(config: RunConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


@pytest.fixture
def write_yaml(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("environments: {math: {}}\npolcy: {}", "polcy", "policy"),
        ("environments: {math: {}}\ncollect: {num_repeat: 3}", "collect.num_repeat", "num_repeats"),
        (
            "environments: {math: {}}\npolicy: {resources: {gpus: 1}}",
            "policy.resources.gpus",
            "num_gpus",
        ),
        ("environments: {math: {agents: x}}", "environments.math.agents", "agent"),
        (
            "environments: {math: {autoscaling: {max_replica: 2}}}",
            "environments.math.autoscaling.max_replica",
            "max_replicas",
        ),
    ],
)
def test_an_unknown_key_is_named_with_its_file_and_the_nearest_valid_one(
    write_yaml: Any, text: str, key: str, nearest: str
) -> None:
    path = write_yaml(text)

    assert refusal(path) == f"{path}: unknown key '{key}'; did you mean '{nearest}'?"


def test_an_unknown_key_like_no_other_shows_the_valid_ones() -> None:
    assert "valid keys: timeout_seconds, processes" in refusal(
        {**SMALLEST, "verification": {"zzz": 1}}
    )


def test_every_problem_is_named_at_once() -> None:
    message = refusal({**SMALLEST, "sampling": {"top_p": 2, "temprature": 1}}, "collect.limit=0")

    assert "sampling.top_p" in message
    assert "did you mean 'temperature'" in message
    assert "collect.limit" in message


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "collect.num_repeats=0",
            "collect.num_repeats: Input should be greater than or equal to 1",
        ),
        ("collect.num_repeats=many", "got 'many'"),
        ("sampling.top_p=0", "sampling.top_p"),
        ("policy.engine=magic", "'vllm', 'openai' or 'scripted'"),
        ("policy.autoscaling.min_replicas=3", "min_replicas (3) is more than max_replicas (1)"),
        ("collect.num_repeats", "must look like collect.num_repeats=16"),
        ("=3", "must look like collect.num_repeats=16"),
        ("collect.limit=[1", "override 'collect.limit=[1' is not KEY=YAML"),
        ("[=1", "override '[=1' is not KEY=YAML"),
        ("collect.input.deeper=1", "collect.input: Input should be a valid string"),
        ("collect=3", "collect: Input should be"),
        ("base_directory=/", "unknown key 'base_directory'"),
        ("policy.model=${nowhere}", "nowhere"),
    ],
)
def test_a_bad_override_is_refused_in_words(override: str, says: str) -> None:
    assert says in refusal(SMALLEST, override)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "environments: Field required"),
        ("environments: {}", "name at least one environment"),
        ("- a\n- b", "must hold sections such as policy:, environments:, collect:"),
        ("5", "not readable as YAML"),
        ("a: [", "not readable as YAML"),
        ("a: 1\na: 2", "not readable as YAML"),
        ("\x00", "not readable as YAML"),
        ("environments: {math: }", "environments.math: Input should be a valid dictionary"),
        ("environments: {math: {}}\nbase_directory: /", "unknown key 'base_directory'"),
    ],
)
def test_a_file_that_is_no_config_is_refused_by_name(write_yaml: Any, text: str, says: str) -> None:
    path = write_yaml(text)

    message = refusal(path)

    assert message.startswith(str(path))
    assert says in message


def test_a_missing_file_a_folder_and_a_binary_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\xfa")

    assert refusal(tmp_path / "none.yaml") == f"{tmp_path / 'none.yaml'}: no such config file"
    assert "is a folder; name the YAML file in it" in refusal(tmp_path)
    assert "not readable as YAML" in refusal(binary)


def test_overrides_win_and_are_read_as_yaml(write_yaml: Any) -> None:
    path = write_yaml("environments: {math: {}}\ncollect: {num_repeats: 2, limit: 5}")

    config = load_config(
        path,
        [
            "collect.num_repeats=16",
            "collect.limit=null",
            "sampling.temperature=0.5",
            "policy.engine_args.reply=four = 4",
            "environments.math.params={require_box: true}",
            "environments.other.entrypoint=package.module:Class",
        ],
    )

    assert config.collect.num_repeats == 16
    assert config.collect.limit is None
    assert config.sampling.temperature == 0.5
    assert config.policy.engine_args == {"reply": "four = 4"}
    assert config.environments["math"].params == {"require_box": True}
    assert config.environments["other"].entrypoint == "package.module:Class"


def test_file_mapping_and_config_give_the_same(write_yaml: Any) -> None:
    text = "environments: {math: {params: {a: [1, x, null]}}}\ncollect: {limit: 3}"
    path = write_yaml(text)

    from_file = load_config(path)
    from_mapping = load_config(yaml.safe_load(text))

    assert dumped(from_file) == dumped(from_mapping) == dumped(load_config(from_file))
    assert from_file.base_directory == load_config(from_file).base_directory == str(path.parent)
    assert load_config(from_file, ["collect.limit=4"]).collect.limit == 4


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="$"))
    | st.sampled_from(["yes", "null", "~", "1e3", "0x10", "2024-01-01", "12:30:45", "1_000", "=="]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=15)
@given(st.dictionaries(st.text("abcxyz_", min_size=1), VALUES, max_size=4))
def test_a_saved_config_is_read_back_the_same(params: dict[str, Any]) -> None:
    config = load_config({"environments": {"math": {"params": params}}})

    saved = yaml.safe_load(config.to_yaml())

    assert differing_keys(saved, dumped(config)) == []
    assert saved["environments"]["math"]["params"] == params
    assert saved["collect"] == dumped(config)["collect"]


def test_keys_that_decide_what_is_collected_are_shown_with_both_values() -> None:
    before = dumped(load_config(SMALLEST))
    after = dumped(
        load_config(SMALLEST, ["collect.num_repeats=2", "sampling.seed=1", "environments.other={}"])
    )

    differences = differing_keys(before, after)

    assert "collect.num_repeats: 1 -> 2" in differences
    assert "sampling.seed: None -> 1" in differences
    assert "environments.other.agent: '(absent)' -> 'auto'" in differences


@pytest.mark.parametrize(
    "override",
    [
        "policy.resources.num_cpus=7",
        "policy.autoscaling.max_replicas=7",
        "policy.startup_timeout_seconds=7",
        "verification.processes=7",
        "collect.output=elsewhere",
        "collect.extend=true",
        "collect.max_in_flight=7",
        "collect.max_failed_share=0.7",
        "collect.run_timeout_seconds=7",
        "collect.drain_timeout_seconds=7",
        "environments.math.resources.num_cpus=7",
        "environments.math.autoscaling.max_replicas=7",
        "environments.math.max_in_flight=7",
        "environments.math.priority=7",
    ],
)
def test_tuning_keys_may_change_between_two_starts(override: str) -> None:
    before, after = load_config(SMALLEST), load_config(SMALLEST, [override])

    assert dumped(before) != dumped(after)
    assert differing_keys(dumped(before), dumped(after)) == []


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("policy.engine=openai", "the queue of a remote policy is its server's"),
        ("policy.engine_args.scheduling_policy=fcfs", "priority, not fcfs; leave it out"),
    ],
)
def test_priorities_that_would_have_no_effect_are_refused(policy: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(SMALLEST, ["environments.math.priority=1", policy])


def test_a_quota_is_a_matter_of_the_collection_and_not_of_what_is_served() -> None:
    config = load_config(SMALLEST, ["environments.math.max_in_flight=7"])

    assert config.quotas == {"math": 7}
    assert application_name(config) == application_name(load_config(SMALLEST))


@pytest.mark.parametrize(
    ("key", "less", "more"),
    [
        ("collect.num_repeats", "4", "8"),
        ("collect.limit", "4", "8"),
        ("collect.limit", "4", "null"),
    ],
)
def test_a_run_that_is_extended_may_grow_and_never_shrink(key: str, less: str, more: str) -> None:
    small, large = (dumped(load_config(SMALLEST, [f"{key}={value}"])) for value in (less, more))

    assert len(differing_keys(small, large)) == len(differing_keys(large, small)) == 1
    assert differing_keys(small, large, may_grow=True) == []
    (told,) = differing_keys(large, small, may_grow=True)
    assert told.startswith(f"{key}: ")
    assert told.endswith("-> 4 (it may only grow: rollouts that are there stay)")


@pytest.mark.parametrize("key", [*TUNING_KEYS, *GROWING_KEYS])
def test_every_tuning_key_exists(key: str) -> None:
    value = dumped(load_config(SMALLEST))
    for part in key.split("."):
        assert part in value
        value = value[part]


def test_the_application_is_named_by_what_is_served_and_nothing_else() -> None:
    name = application_name(load_config(SMALLEST))

    assert (
        application_name(load_config(SMALLEST, ["collect.num_repeats=9", "sampling.seed=1"]))
        == name
    )
    assert application_name(load_config(SMALLEST, ["policy.model=other"])) != name
    assert application_name(load_config(SMALLEST, ["environments.math.params.a=1"])) != name
    assert application_name(load_config(SMALLEST, ["verification.timeout_seconds=3"])) != name


def test_the_application_has_a_name_whatever_python_puts_into_params() -> None:
    params = {"folder": Path("/data"), "raw": b"x"}

    assert application_name(load_config({"environments": {"math": {"params": params}}}))


def test_a_config_cannot_be_changed() -> None:
    config = load_config(SMALLEST)

    with pytest.raises(ValueError, match="frozen"):
        config.collect.limit = 3


def test_an_application_is_named_by_its_environments_code_and_place(tmp_path: Path) -> None:
    code = "from gym_ray import Environment\n\nclass Own(Environment):\n    pass\n"
    names = set()
    for folder, text in (("a", code), ("b", code), ("c", code + "# mended\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text(text)
        config = tmp_path / folder / "config.yaml"
        config.write_text("environments: {own: {entrypoint: 'own.py:Own'}}\n")
        names.add(application_name(load_config(config)))

    assert len(names) == 2, "equal code is one application wherever it stands, other code another"


def test_values_from_the_environment_are_used_and_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    source = {"environments": {"math": {"params": {"key": "${oc.env:JUDGE_KEY}"}}}}
    config = load_config(source)

    assert config.environments["math"].params["key"] == "secret"
    assert "secret" not in config.to_yaml()
    monkeypatch.setenv("JUDGE_KEY", "rotated")
    assert differing_keys(config.to_tree(), load_config(source).to_tree()) == []


def test_values_from_the_environment_stay_out_of_lists_and_of_what_refers_to_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    params = {
        "args": ["--token", "${oc.env:JUDGE_KEY}"],
        "servers": [{"headers": {"Authorization": "Bearer ${oc.env:JUDGE_KEY}"}}],
        "again": "${environments.math.params.servers[0].headers.Authorization}",
        "all": "${environments.math.params.args}",
        "blanks": "${ environments.math.params.again }",
        "selected": "${oc.select:environments.math.params.again}",
        "here": "${.again}",
        "inner": {"f": "${environments.math.params.again}"},
        "section": "${environments.math.params.inner}",
        "below": "${environments.math.params.section.f}",
        "which": "inner",
        "nested": "${environments.math.params.${environments.math.params.which}}",
        "plain": "p",
        "name": "${environments.math.params.plain}",
    }
    config = load_config({**SMALLEST, "environments": {"math": {"params": params}}})

    found = config.environments["math"].params
    assert (found["args"][1], found["again"]) == ("secret", "Bearer secret")
    assert "secret" not in config.to_yaml()
    saved = config.to_tree()
    assert saved["environments"]["math"]["params"] == params, "every reference as it was written"
    assert load_config(saved).environments["math"].params == found
    monkeypatch.setenv("JUDGE_KEY", "rotated")
    assert differing_keys(saved, load_config(saved).to_tree()) == []


def test_a_reference_is_compared_by_what_it_stands_for() -> None:
    params = {"size": "${collect.max_in_flight}", "key": "${oc.env:HOME}"}
    source = {**SMALLEST, "environments": {"math": {"params": params}}}
    before = load_config(source, ["collect.max_in_flight=8"]).to_tree()
    now = load_config(source, ["collect.max_in_flight=9"]).to_tree()
    literal = load_config(source, ["environments.math.params.size=8"]).to_tree()

    where, text = "environments.math.params.size", "'${collect.max_in_flight}'"
    assert differing_keys(before, now) == [f"{where}: {text} -> {text} (of another value)"]
    assert differing_keys(before, literal | {"collect": before["collect"]}) == []


def test_a_section_that_refers_to_another_is_kept_as_written_and_read_back() -> None:
    source = {
        "environments": {
            "math": {"params": {"a": {"b": [1, "${..c}"], "c": 2}}, "resources": {"num_cpus": 2}},
            "other": {"params": "${environments.math.params}"},
        },
    }
    config = load_config(source)

    saved = config.to_tree()
    assert saved["environments"]["other"]["params"] == "${environments.math.params}"
    assert load_config(saved).environments == config.environments
    assert config.environments["other"].params == {"a": {"b": [1, 2], "c": 2}}
    changed = load_config(source, ["environments.math.params.a.c=3"]).to_tree()
    assert differing_keys(saved, changed) == [
        "environments.math.params.a.b: [1, '${..c}'] -> [1, '${..c}'] (of another value)",
        "environments.math.params.a.c: 2 -> 3",
        "environments.other.params.a.b: '${environments.math.params}' -> "
        "'${environments.math.params}' (of another value)",
        "environments.other.params.a.c: '${environments.math.params}' -> "
        "'${environments.math.params}' (of another value)",
    ]


def test_what_differs_is_told_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    key = "environments.math.params.key"
    before = load_config(SMALLEST, [key + "=Bearer ${oc.env:JUDGE_KEY}"]).to_tree()
    after = load_config(SMALLEST, [key + "=Token ${oc.env:JUDGE_KEY}"]).to_tree()

    (told,) = differing_keys(before, after)

    assert "secret" not in told
    monkeypatch.delenv("JUDGE_KEY")
    assert resolve(before)["environments"]["math"]["params"]["key"] == "Bearer ${oc.env:JUDGE_KEY}"
    literal = load_config(SMALLEST, [key + "=literal"]).to_tree()
    assert differing_keys(before, literal) == [key + ": 'Bearer ${oc.env:JUDGE_KEY}' -> 'literal'"]


def test_staleness_cannot_be_bounded_for_a_policy_that_tells_no_versions() -> None:
    limit = "collect.max_staleness=1"
    assert "openai has none" in refusal(SMALLEST, "policy.engine=openai", limit)
    assert load_config(SMALLEST, [limit]).collect.max_staleness == 1

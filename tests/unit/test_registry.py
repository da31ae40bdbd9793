"""Finding environments: every way to name one, and what each wrong way is told."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from gym_ray.config.environment import EnvironmentConfig
from gym_ray.environment import Environment
from gym_ray.environments.math import MathEnvironment
from gym_ray.errors import ConfigError
from gym_ray.registry import environment_factory, load_class, load_environment, registered

SOURCE = """
from gym_ray import Environment

class Coins(Environment):
    def __init__(self, *, sides: int = 2) -> None:
        if sides < 2:
            raise ValueError("a coin has at least two sides")
        self.sides = sides

class Unrelated:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    package = tmp_path / "envs" / "coins"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(SOURCE)
    (tmp_path / "single.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("import no_such_module_anywhere")
    return tmp_path


def load(name: str, entrypoint: str | None, folder: Path, **params: Any) -> Environment:
    config = EnvironmentConfig(entrypoint=entrypoint, params=params)
    return load_environment(name, config, str(folder))


def refusal(name: str, entrypoint: str | None, folder: Path, **params: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(name, entrypoint, folder, **params)
    assert str(caught.value).startswith(f"environments.{name}")
    return str(caught.value)


def test_an_environment_is_found_by_package_folder_or_file(folder: Path) -> None:
    by_package = load("m", "gym_ray.environments.math:MathEnvironment", folder)
    by_folder = load("c", "envs/coins:Coins", folder, sides=6)
    by_file = load("c", "./single:Coins", folder)
    by_file_name = load("c", "./single.py:Coins", folder)
    by_absolute_path = load("c", f"{folder}/envs/coins:Coins", Path("/"))

    assert type(by_package) is MathEnvironment
    assert vars(by_folder) == {"sides": 6}
    assert vars(by_file) == vars(by_file_name) == {"sides": 2}
    assert type(by_absolute_path) is type(by_folder)


def test_two_folders_of_one_name_are_kept_apart(folder: Path) -> None:
    other = folder / "other" / "coins"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text(SOURCE)

    assert load_class("c", "envs/coins:Coins", str(folder)) is not load_class(
        "c", "other/coins:Coins", str(folder)
    )


def test_a_registered_name_needs_no_entry_point(folder: Path) -> None:
    if "math" not in registered():
        pytest.fail("gym-ray is not installed here: pip install -e .")

    assert type(load("math", None, folder)) is MathEnvironment


def test_an_unknown_name_is_told_the_nearest_and_how_to_name_a_class(folder: Path) -> None:
    message = refusal("maths", None, folder)

    assert "did you mean 'math'?" in message
    assert "environments.maths.entrypoint to package.module:Class" in message


@pytest.mark.parametrize(
    ("entrypoint", "says"),
    [
        ("gym_ray.environments.math", "write package.module:Class or path/to/folder:Class"),
        ("no_such_package_here:Class", "cannot be imported: ModuleNotFoundError"),
        ("envs/nothing:Class", "cannot be imported: ImportError: no "),
        ("./broken:Class", "No module named 'no_such_module_anywhere'"),
        ("envs/coins:Missing", "Missing is not a subclass of gym_ray.Environment"),
        ("envs/coins:Unrelated", "Unrelated is not a subclass of gym_ray.Environment"),
    ],
)
def test_a_wrong_entry_point_is_told_why(folder: Path, entrypoint: str, says: str) -> None:
    assert says in refusal("coins", entrypoint, folder)


def test_params_the_class_refuses_are_named_with_its_reason(folder: Path) -> None:
    unknown = refusal("coins", "envs/coins:Coins", folder, faces=3)
    wrong = refusal("coins", "envs/coins:Coins", folder, sides=1)

    assert "environments.coins.params: Coins refuses them" in unknown
    assert "unexpected keyword argument 'faces'" in unknown
    assert "a coin has at least two sides" in wrong


def test_an_agent_that_cannot_act_in_the_environment_is_refused(folder: Path) -> None:
    (folder / "tools.py").write_text(
        "from gym_ray import Environment, tool\n"
        "class Bad(Environment):\n"
        "    @tool\n"
        "    def cut(self, what): ...\n"
    )

    def told(entrypoint: str, agent: Any) -> str:
        config = EnvironmentConfig(entrypoint=entrypoint, agent=agent)
        with pytest.raises(ConfigError) as caught:
            load_environment("e", config, str(folder))
        return str(caught.value)

    assert "needs a gym_ray.GymnasiumEnvironment, and Coins" in told("./single:Coins", "gymnasium")
    assert told("./tools:Bad", "tool_calling").startswith(
        "environments.e: tool Bad.cut: argument 'what' needs a type"
    )


def test_mcp_servers_need_their_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    config = EnvironmentConfig(
        entrypoint="gym_ray.environments.math:MathEnvironment",
        agent="tool_calling",
        mcp_servers={"s": {"url": "http://localhost/mcp"}},  # type: ignore[dict-item]
    )

    with pytest.raises(ConfigError, match=r"environments\.e\.mcp_servers: pip install"):
        load_environment("e", config, str(folder))


def test_a_module_that_broke_on_import_is_read_again_once_repaired(folder: Path) -> None:
    refusal("coins", "./broken:Coins", folder)
    (folder / "broken.py").write_text(SOURCE)

    assert load("coins", "./broken:Coins", folder)


def test_a_factory_builds_the_environment_in_another_process(folder: Path) -> None:
    config = EnvironmentConfig(entrypoint="envs/coins:Coins", params={"sides": 3})
    factory = environment_factory("coins", config, str(folder))

    assert vars(pickle.loads(pickle.dumps(factory))()) == {"sides": 3}

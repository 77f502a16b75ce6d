"""Fields beside what they configure: who owns them, what they may be, and what an owner is told."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from agents.algorithms import ALGORITHMS, register_algorithm
from agents.algorithms.grpo import GRPO
from agents.config.algorithm import LearningConfig
from agents.config.options import (
    MAY_CHANGE,
    Above,
    AtLeast,
    Between,
    Options,
    changeable,
    field_names,
    options_of,
)
from agents.config.run import RunConfig
from agents.config.train import TrainConfig
from agents.engines import ENGINES
from agents.records.folder import RunFolder
from agents.records.start import check_run_folder


@dataclass(frozen=True, kw_only=True)
class Mixed(Options):
    count: Annotated[int, AtLeast(1)] = 1
    rate: Annotated[float, Above(0), Between(0, 1)] = 0.5
    limit: Annotated[float | None, AtLeast(0)] = None
    kind: Literal["a", "b"] = "a"


@pytest.fixture
def mine():
    """Register an algorithm with a field of its own, and lend its name."""

    @register_algorithm("mine")
    class Mine(GRPO):
        @dataclass(frozen=True, kw_only=True)
        class Config(GRPO.Config):
            my_beta: Annotated[float, AtLeast(0)] = 0.1
            my_pace: Annotated[int, MAY_CHANGE] = 1

    yield "mine"
    del ALGORITHMS["mine"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "Expected count to be at least 1, got 0."),
        ({"rate": 0}, "Expected rate to be above 0, got 0.0."),
        ({"rate": 2}, "Expected rate to be between 0 and 1, got 2.0."),
        ({"limit": -1}, "Expected limit to be at least 0 or None, got -1.0."),
        ({"limit": "2"}, "Expected limit to be a number, got '2': write limit=2"),
        ({"kind": "c"}, "Expected a value of kind (a, b), got 'c'"),
        ({"rate": float("nan")}, "Expected rate to be above 0, got nan."),
    ],
)
def test_types_and_ranges_are_those_beside_the_field(values, message):
    with pytest.raises(ValueError, match="Expected") as caught:
        Mixed(**values)
    assert message in str(caught.value)


def test_a_number_means_itself_and_none_that_there_is_none():
    assert Mixed(limit=0).limit == 0.0
    assert Mixed().limit is None
    own = TrainConfig(clip=0, max_step_kl=0, clip_high=0).algorithm_config
    assert (own.clip, own.max_step_kl, own.clip_high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_what_is_read_without_torch_is_what_the_class_brings(name):
    # First as the configuration finds it, by the name of the class that is not loaded yet.
    found = options_of(ALGORITHMS, name)
    assert ALGORITHMS.find(name).Config is found
    assert set(field_names(LearningConfig)) <= set(field_names(found))


def test_defaults_are_the_values_of_the_papers():
    values = {name: TrainConfig(algorithm=name).algorithm_config for name in ("grpo", "gspo")}
    assert (values["grpo"].kl, values["grpo"].group_size, values["grpo"].clip) == ("k3", 8, 0.2)
    assert (values["gspo"].ratio, values["gspo"].clip, values["gspo"].clip_high) == (
        *("sequence", 3e-4),
        4e-4,
    )
    assert TrainConfig(algorithm="rloo").algorithm_config.group_size == 4
    assert TrainConfig(algorithm="reinforce++").algorithm_config.kl == "k1"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"algorithm": "grpo", "critic_learning_rate": 1e-3},
            "Expected critic_learning_rate with an algorithm that has it (mappo, ippo, ppo, "
            "happo, archer, awr), got grpo: pass --algorithm mappo, or leave out "
            "--critic-learning-rate.",
        ),
        (
            {"engine_memory": 0.5},
            "Expected engine_memory with an engine that has it (vllm), got builtin: pass "
            "--engine vllm, or leave out --engine-memory.",
        ),
    ],
)
def test_a_field_without_effect_is_refused_with_those_that_have_it(values, message):
    with pytest.raises(ValueError, match="Expected") as caught:
        TrainConfig(**values)
    assert str(caught.value) == message


def test_another_algorithm_keeps_what_was_changed_and_it_has():
    config = TrainConfig(kl_coef=0.1, value_clip=0.2, seed=3)
    other = config.replace(algorithm="grpo")
    assert other == TrainConfig(algorithm="grpo", kl_coef=0.1, seed=3)
    assert config.replace(seed=4) == TrainConfig(kl_coef=0.1, value_clip=0.2, seed=4)
    with pytest.raises(ValueError, match="gae_lambda with an algorithm that has it"):
        config.replace(algorithm="grpo", gae_lambda=0.9)
    with pytest.raises(TypeError, match=r"Expected config\.replace"):
        dataclasses.replace(config, seed=4)


def test_every_configuration_is_read_as_it_was_written():
    for config in (
        TrainConfig(),
        TrainConfig(algorithm="gspo", clip=0.0, kl_target=2.0, max_new_tokens=8),
        TrainConfig(algorithm="ppo", observers=0, value_clip=0.0, swap="never"),
        TrainConfig(engine="vllm", engine_memory=0.3),
        TrainConfig(engine="vllm_server", engine_url="http://here", importance_cap=3.0),
    ):
        assert TrainConfig.from_json(config.to_json()) == config
        assert hash(TrainConfig.from_json(config.to_json())) == hash(config)


def test_an_algorithm_of_ones_own_brings_its_fields(mine):
    config = TrainConfig(algorithm=mine, my_beta=0.3)
    assert config.algorithm_config.my_beta == 0.3
    assert config.to_json()["my_beta"] == 0.3
    assert TrainConfig.from_json(config.to_json()) == config
    assert config.algorithm_config.kl == "k3"
    with pytest.raises(ValueError, match="my_beta to be at least 0, got -1"):
        TrainConfig(algorithm=mine, my_beta=-1)
    with pytest.raises(ValueError, match=r"an algorithm that has it \(mine\), got mappo"):
        TrainConfig(my_beta=0.3)


def test_a_field_that_another_owner_has_is_refused():
    @register_algorithm("mine")
    class Mine(GRPO):
        @dataclass(frozen=True, kw_only=True)
        class Config(GRPO.Config):
            seed: int = 0

    try:
        with pytest.raises(ValueError, match="got seed, which RunConfig has, too"):
            TrainConfig(algorithm="mine")
        Mine.Config = dict
        with pytest.raises(ValueError, match="Expected the Config of the algorithm mine"):
            TrainConfig(algorithm="mine")
    finally:
        del ALGORITHMS["mine"]


def test_every_field_has_one_owner_and_says_what_it_is():
    for name in ENGINES:
        assert not {*field_names(options_of(ENGINES, name))} & {*field_names(RunConfig)}
    for name in ALGORITHMS:
        assert not {*field_names(options_of(ALGORITHMS, name))} & {*field_names(RunConfig)}


def test_what_a_resumption_may_change_is_said_beside_the_field():
    free = changeable(RunConfig)
    assert {"out", "device", "iterations", "save_every", "trackers", "imports"} <= free
    # They decide what has been learnt.
    assert free.isdisjoint({"task", "algorithm", "seed", "model", "batch_size", "learning_rate"})
    assert changeable(options_of(ENGINES, "vllm")) == {"engine_memory"}
    assert changeable(options_of(ENGINES, "vllm_server")) == {"engine_url"}
    assert not any(changeable(options_of(ALGORITHMS, name)) for name in ALGORITHMS)


def test_a_resumption_may_change_what_an_outsider_says_it_may(toy_config, mine):
    config = toy_config(algorithm=mine, my_beta=0.3, my_pace=1)
    folder = RunFolder(config.run_folder)
    folder.path.mkdir(parents=True)
    folder.write_config(config)
    check_run_folder(config.replace(my_pace=2), resume=True)
    with pytest.raises(
        ValueError, match=r"Expected my_beta=0\.3 as in the run to resume, got 0\.4"
    ):
        check_run_folder(config.replace(my_beta=0.4), resume=True)

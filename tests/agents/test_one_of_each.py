"""A file from outside brings one of each kind: all of them train, evaluate and compare together."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from agents.cli.main import main
from agents.config import plugins
from agents.config.plugins import import_plugins
from agents.config.train import TrainConfig
from agents.engines import Engine, register_engine
from agents.maths.losses import Totals
from agents.records.folder import RunFolder
from agents.registries import (
    ALGORITHMS,
    CRITIC_BODIES,
    ENGINES,
    PRESETS,
    TRACKERS,
    VARIANTS,
)
from agents.training.trainer import Trainer
from cory_env.registry import REWARDS, TASKS
from tests.trajectories import ROOT

KINDS = (TASKS, REWARDS, ALGORITHMS, CRITIC_BODIES, ENGINES, TRACKERS, PRESETS, VARIANTS)
FILE = ROOT / "tests/fixtures/one_of_each.py"
CHOSEN = {name: "mine" for name in ("algorithm", "critic_body", "engine", "trackers")}


def forget() -> None:
    """Be as a new process is: nothing of the file is registered or imported."""
    for registry in KINDS:
        for name in [name for name in registry if name.startswith("mine")]:
            del registry[name]
    sys.modules.pop(FILE.stem, None)
    plugins._own.clear()


@pytest.fixture(autouse=True)
def new_process(tmp_path, monkeypatch):
    """Forget the file after the test, and what this user has imported before it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = list(sys.path)
    yield
    forget()
    sys.path[:] = path


def command(*words: object) -> int:
    """Run a command as a new process would, which remembers nothing of the last one."""
    forget()
    return main([str(word) for word in words])


def test_one_of_each_trains_evaluates_resumes_and_is_reported(tmp_path):
    run = tmp_path / "run"
    chosen = [w for name, word in CHOSEN.items() for w in (f"--{name.replace('_', '-')}", word)]
    bound = ("--my-bound", 0.5)
    assert command("train", "mine", "--import", FILE, *chosen, *bound, "--out", run) == 0
    config = RunFolder(run).read_config()
    assert {**config.to_json(), **CHOSEN, "my_bound": 0.5} == config.to_json()
    assert (config.iterations, config.model) == (
        2,
        "tiny",
    )  # of the preset that has the task's name
    assert (run / "tracker.txt").read_text() == "iteration 0\niteration 1\n"
    assert (run / "engine.txt").read_text() == "32 prompts\n"  # 2 iterations of 8 episodes for 2
    assert command("evaluate", run, "--queries", 4) == 0
    assert json.loads((run / "evaluation.json").read_text())["num_queries"] == 4
    assert command("train", "mine", "--resume", "--iterations", 3, "--out", run) == 0
    assert (run / "tracker.txt").read_text().endswith("iteration 1\niteration 2\n")
    assert (run / "engine.txt").read_text() == "32 prompts\n16 prompts\n"
    assert command("report", run) == 0
    assert command("train", "mine", "--resume", "--my-bound", 2, "--out", run) == 2


def test_a_variant_of_all_of_them_is_compared(tmp_path):
    out = tmp_path / "comparison"
    words = ("compare", "mine", "--import", FILE, "--variants", "mine-bounded", "--seeds", 1)
    words += ("--my-bound", 0.5)
    assert command(*words, "--iterations", 1, "--jobs", 1, "--out", out) == 0
    (row,) = json.loads((out / "results.json").read_text())
    assert row["variant"] == "mine-bounded"
    assert json.loads((out / "runs/mine-bounded/base/0/config.json").read_text())["my_bound"] == 0.5
    assert (out / "runs/mine-bounded/base/0/tracker.txt").read_text() == "iteration 0\n"


def test_each_does_what_it_says(tmp_path):
    import_plugins(FILE)
    values = {**PRESETS["mine"](), **CHOSEN, "whitening": "none", "out": str(tmp_path)}
    trainer = Trainer(TrainConfig(**values))
    assert trainer.config.algorithm_config.importance_cap == 3.0
    (prepared, _) = trainer.prepare(trainer.collect(trainer.assign(0)))
    assert float(prepared.batch.advantages.abs().max()) <= 1.0
    # The critic learns from the policy's own states and does not shape them.
    critic = trainer.parts.critics["llm_0"]
    assert critic.trunk_of("llm_0") == "llm_0"
    torch.nn.init.ones_(critic.out.weight)  # at 0, nothing would reach the body
    for name, shaped in (("mine", False), ("policy", True)):
        critic.body = CRITIC_BODIES.find(name)()
        loss = trainer.algorithm._value_loss(
            "llm_0",
            prepared.batch,
            trainer.policies["llm_0"].score(prepared.batch, prepared.batch.ref_hidden),
            Totals.of(prepared.batch.response_mask),
        )
        loss.backward()
        assert critic.out.weight.grad.abs().sum() > 0
        grads = [p.grad for p in trainer.policies["llm_0"].parameters().values()]
        assert any(g is not None and bool(g.any()) for g in grads) == shaped


@pytest.mark.parametrize("words", ["train", "compare toy", "play"])
def test_help_lists_what_a_file_brings(words, capsys):
    forget()
    with pytest.raises(SystemExit) as stop:
        main([*words.split(), "--import", str(FILE), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "  mine  " in shown
    assert "Reverse a string, for a reward of my own." in shown


def test_help_lists_every_name_with_a_line(capsys):
    shown = ""
    for words in (["train", "--help"], ["compare", "--help"]):
        with pytest.raises(SystemExit):
            main(words)
        shown += capsys.readouterr().out
    for registry in KINDS:
        for name in registry:
            line = f"  {name:{max(map(len, registry))}}  {registry.summary(name)}"
            assert registry.summary(name)
            assert line in shown


@pytest.mark.parametrize("name", CHOSEN)
def test_an_unknown_name_is_answered_by_the_nearest_of_the_user_s_own(name):
    with pytest.raises(ValueError, match=r"got 'elsewhere': your own comes with --import FILE"):
        TrainConfig(**{name: "elsewhere"})
    import_plugins(FILE)
    with pytest.raises(ValueError, match=r"mine\), got 'minne': did you mean mine\?"):
        TrainConfig(**{name: "minne"})


def test_what_is_none_of_its_kind_is_refused_in_a_line():
    class NoEngine:
        pass

    class HalfAnEngine(Engine):
        def sync(self, policy):
            pass

    for entry, words in (
        (NoEngine, "a subclass of agents.engines.base.Engine"),
        (HalfAnEngine, "with its methods, got HalfAnEngine without generate"),
    ):
        register_engine("mine")(entry)
        with pytest.raises(ValueError, match=f"the engine 'mine' to be .*{words}"):
            TrainConfig(engine="mine")
        del ENGINES["mine"]


def test_what_an_engine_needs_is_asked_of_its_class():
    class Pushed(Engine):
        needs_lora = needs_one_base = needs_stored_base = True

        def sync(self, policy):
            pass

        def generate(self, policy, prompts, **options):
            pass

    register_engine("mine")(Pushed)
    mine = {"engine": "mine"}
    TrainConfig(**mine)
    for values, words in (
        ({**mine, "engine_url": "http://here"}, "an engine that has it .vllm_server., got mine"),
        ({**mine, "adapter": "full"}, "adapter lora with engine mine"),
        ({**mine, "model": "embedded,gpt2"}, "one base model with engine mine"),
        ({**mine, "model": "tiny"}, "built in memory"),
    ):
        with pytest.raises(ValueError, match=words):
            TrainConfig(**values)


def test_the_pages_name_all_that_there_is():
    pages = {path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("docs/*.md")}
    for registry in KINDS:
        assert f"`{registry.group}`" in pages["plugins"]
    for page, registry in (("engines", ENGINES), ("algorithms", ALGORITHMS), ("compare", VARIANTS)):
        assert [name for name in registry if name not in pages[page]] == []


def test_engines_and_trackers_are_asked_without_torch():
    code = (
        "import sys\nfrom agents import TrainConfig\n"
        "TrainConfig(engine='vllm', trackers='wandb,trackio,tensorboard', critic_body='own')\n"
        "from agents.watching.trackers import check_trackers\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

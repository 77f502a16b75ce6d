"""The page on trainers of others: its code is that of the examples, and these play the game.

Those that run with the real packages do so in tests/trainers. The others are played here against
stand-ins with the interface that they were written for, which says that our side is right, and
nothing of theirs.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import cory_env

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples" / "trainers"
PAGE = (ROOT / "docs" / "trainers.md").read_text(encoding="utf-8")
FILES = sorted(EXAMPLES.rglob("*.py"))


def test_the_code_of_the_page_is_that_of_the_examples():
    blocks = re.findall(r"```py title=\"(\S+)\"\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) >= 3
    for name, block in blocks:
        assert block in (ROOT / name).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(EXAMPLES).as_posix())
def test_every_example_is_short_and_on_the_page(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
    assert path.name == "__init__.py" or path.relative_to(ROOT).as_posix() in PAGE


class Letters:
    """A tokenizer of transformers, as far as the examples ask for one: a letter is a token."""

    alphabet = "abcdefgh>,="
    eos_token_id = len(alphabet)

    def encode(self, text):
        return [self.alphabet.index(letter) for letter in text]

    def decode(self, ids, *, skip_special_tokens):
        assert skip_special_tokens
        return "".join(self.alphabet[i] for i in ids if i != self.eos_token_id)

    def apply_chat_template(self, messages, *, add_generation_prompt, return_dict):
        assert add_generation_prompt
        assert return_dict
        return {"input_ids": self.encode(messages[-1]["content"])}


def best(prompt):
    """Return the answer that the toy pays for."""
    return prompt[:-1][:: -1 if prompt.endswith(">") else 1]


def load(monkeypatch, name, **modules):
    """Import an example beside stand-ins: modules by their names, with `__` for a point."""
    for path, names in modules.items():
        parts = path.split("__")
        for end in range(1, len(parts) + 1):
            module = ".".join(parts[:end])
            if module not in sys.modules:
                monkeypatch.setitem(sys.modules, module, ModuleType(module))
        for key, value in names.items():
            monkeypatch.setattr(sys.modules[".".join(parts)], key, value, raising=False)
    spec = importlib.util.spec_from_file_location(f"example_{Path(name).stem}", EXAMPLES / name)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def first_prompt():
    return cory_env.vector_env(1, "toy").reset(seed=5)[0]


def test_the_loop_for_verl_trains_the_seat_of_the_row(monkeypatch, first_prompt):
    registered = {}
    names = {
        "AgentLoopBase": object,
        "AgentLoopOutput": SimpleNamespace,
        "register": lambda name: lambda loop: registered.setdefault(name, loop),
    }
    load(monkeypatch, "verl_loop.py", verl__experimental__agent_loop__agent_loop=names)
    loop = registered["cory"]()
    letters = Letters()
    rollout = SimpleNamespace(response_length=3)
    loop.config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=rollout))
    loop.tokenizer = cory_env.make_task("toy").tokenizer
    monkeypatch.setattr(
        type(loop.tokenizer), "decode", lambda self, ids, **flags: letters.decode(ids, **flags)
    )

    async def apply_chat_template(messages):
        return letters.encode(messages[-1]["content"])

    async def generate(request_id, prompt_ids, sampling_params):
        said = letters.encode(best(letters.decode(prompt_ids, skip_special_tokens=True)))
        return SimpleNamespace(token_ids=said, log_probs=[-1.0] * len(said))

    loop.apply_chat_template = apply_chat_template
    loop.server_manager = SimpleNamespace(generate=generate)
    answer = best(first_prompt)
    for seat, prompt in (("pioneer_0", first_prompt), ("observer_0", f"{answer}=")):
        out = asyncio.run(loop.run({}, task="toy", seed=5, seat=seat))
        assert out.prompt_ids == letters.encode(prompt)
        assert out.response_ids == letters.encode(answer)
        assert (out.response_mask, out.response_logprobs) == ([1] * 3, [-1.0] * 3)
        assert out.reward_score == 2.0


def test_the_function_for_slime_returns_a_sample_for_each_turn(monkeypatch, first_prompt):
    letters = Letters()
    status = SimpleNamespace(TRUNCATED="truncated", COMPLETED="completed")

    async def post(url, request):
        assert url == "http://localhost:1/generate"
        text = best(letters.decode(request["input_ids"], skip_special_tokens=True))
        scored = [[-0.5, token, None] for token in letters.encode(text)]
        meta = {"output_token_logprobs": scored, "finish_reason": {"type": "stop"}}
        return {"text": text, "meta_info": meta}

    module = load(
        monkeypatch,
        "slime_generate.py",
        slime__rollout__sglang_rollout={
            "GenerateState": lambda _: SimpleNamespace(tokenizer=letters)
        },
        slime__utils__http_utils={"post": post},
        slime__utils__types={"Sample": SimpleNamespace(Status=status)},
    )
    args = SimpleNamespace(sglang_router_ip="localhost", sglang_router_port=1)
    metadata = {"task": "toy", "seed": 5}
    sample = SimpleNamespace(metadata=metadata, index=7, rollout_id=None)
    turns = asyncio.run(module.generate(args, sample, {"max_new_tokens": 3}))
    answer = best(first_prompt)
    assert [turn.tokens for turn in turns] == [
        letters.encode(first_prompt + answer),
        letters.encode(f"{answer}={answer}"),
    ]
    assert [turn.reward for turn in turns] == [1.0, 1.0]
    assert {(turn.rollout_id, turn.response_length, turn.status) for turn in turns} == {
        (7, 3, "completed")
    }
    assert turns[0].loss_mask == [1] * 3
    assert turns[0].rollout_log_probs == [-0.5] * 3


def test_the_server_for_nemo_gym_is_a_session_for_each_episode(monkeypatch):
    names = {"GymnasiumServer": object, "extract_text": lambda action: action}
    module = load(monkeypatch, "nemo_gym/app.py", resources_servers__gymnasium=names)
    server = module.CoryServer()
    server.session_state = {}
    row = {"task": "toy", "seat": "pioneer_0", "observers": 0, "seed": 5}
    prompt, _ = asyncio.run(server.reset(row, "a"))
    other, _ = asyncio.run(server.reset({**row, "seed": 6}, "b"))
    assert prompt == cory_env.vector_env(1, "toy", observers=0).reset(seed=5)[0] != other
    assert asyncio.run(server.step(best(prompt), row, "a")) == (None, 1.0, True, False, {})
    assert asyncio.run(server.step(best(other), row, "b"))[1] == 1.0


def test_the_environments_for_tinker_play_each_other(monkeypatch, first_prompt):
    model_input = SimpleNamespace(from_ints=list)
    result = lambda *fields: SimpleNamespace(  # noqa: E731
        **dict(zip(("reward", "done", "observation", "stop"), fields, strict=True))
    )
    base = {"Env": object, "EnvGroupBuilder": object, "StepResult": result}
    module = load(
        monkeypatch,
        "tinker_envs.py",
        tinker={"types": SimpleNamespace(ModelInput=model_input)},
        tinker_cookbook__rl__types=base,
    )
    letters = Letters()
    tables = module.Tables("toy", timeout_s=30)
    builder = module.CoryGroupBuilder(tables, 5, letters, num_games=3)

    async def play(env):
        observation, stop = await env.initial_observation()
        assert stop == [letters.eos_token_id]
        prompt = letters.decode(observation, skip_special_tokens=True)
        return prompt, await env.step(letters.encode(best(prompt)))

    async def play_all():
        return await asyncio.gather(*map(play, await builder.make_envs()))

    played = asyncio.run(play_all())
    assert [prompt for prompt, _ in played] == [first_prompt, f"{best(first_prompt)}="] * 3
    assert {(step.reward, step.done) for _, step in played} == {(2.0, True)}
    assert len(tables) == 0

"""A person takes a seat: reads what the seat reads, types a response, sees what it earns.

The partner's response is shown token by token, as it is sampled. A person sees no more than the
seat does; what was hidden is shown after the game. `torch` is loaded with the partner, and not at
all where a script stands in for one.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from agents.models.files import policy_kind
from agents.tasks import build_task
from cory_env import Example, raw_env
from cory_env.game import Rules
from cory_env.names import unknown_name
from cory_env.rendering import query_line, reward_table, seat_name, turn_panel, visible
from cory_env.tokenization import load_tokenizer

if TYPE_CHECKING:
    from agents.policies.llm import LLMPolicy

_PAUSE_S = 0.05
"""Between two tokens on a terminal: a small model is faster than the eye."""


def play(
    task: str,
    *,
    load: Callable[[Path | None], LLMPolicy],
    seat: str = "",
    partner: Path | None = None,
    split: str = "test",
    task_options: Mapping[str, bool | int | float | str] | None = None,
    seed: int | None = None,
    **options: Any,
) -> None:
    """Play games until the person has enough, then show the means.

    Args:
        task: a registered name.
        load: loads the partner: a folder with a policy, or the embedded model where that is None.
        seat: the person's; empty for `observer_0`, or `pioneer_0` where there is no observer.
        partner: folder of the policy that plays all other seats; None for the embedded model, or
            for a script where the task has a vocabulary of its own.
        split: which queries.
        task_options: what the task itself takes.
        seed: of queries and sampling; None for new ones every time.
        options: further switches of the game: see `cory_env.options.make_rules`.

    Raises:
        ValueError: if there is no such task, seat, or policy.
        KeyboardInterrupt: on Ctrl-C.
    """
    options["task"] = build_task(task, split, task_options or {})
    env = raw_env(action_level="response", **options)
    rules = env.rules
    seat = seat or rules.roles[min(1, rules.observers)]
    _check_game(rules, seat, partner, seed)
    rng = np.random.default_rng(seed)
    player: Partner
    if partner is None and (rules.task.tokenizer is not None or not rules.observers):
        player = ScriptedPartner(rng)
    else:
        if partner is not None:
            policy_kind(partner, "--partner to be the folder of a policy")  # before torch is loaded
        with Console().status("loading the partner", spinner="line"):
            player = ModelPartner(load(partner), seed, of=partner)
        if not player.shares_tokenizer(rules):
            from agents.models.chat import ChatTokenizer

            options["tokenizer"] = ChatTokenizer(player.policy.backbone.tokenizer)  # type: ignore[arg-type]
            env = raw_env(action_level="response", **options)
    with contextlib.suppress(ImportError):  # Windows has none, and edits lines without it
        import readline  # noqa: F401 # `input` finds it
    Session(env, seat, player, rng).run()


def _check_game(rules: Rules, seat: str, partner: Path | None, seed: int | None) -> None:
    if seat not in rules.agents:
        raise ValueError(unknown_name("a --seat", rules.agents, seat))
    if partner is not None and not rules.observers:
        raise ValueError(
            "Expected --partner with another seat than yours, got a game without observers: leave "
            "it out, or pass --observers 1."
        )
    if seed is not None and seed < 0:
        raise ValueError(f"Expected --seed to be at least 0, got {seed}.")


class Partner(Protocol):
    """Whoever plays the other seats."""

    description: str
    """Who that is, for people."""

    def tokens(self, env: raw_env, example: Example) -> Iterator[int]:
        """Yield the response of the agent on turn, token by token, and maybe more behind it."""
        ...


class ModelPartner:
    """A language model, sampled as in training.

    Args:
        policy: the model.
        seed: of the sampling; None for a new one.
        of: the folder that it comes from; None for the embedded model.
    """

    def __init__(self, policy: LLMPolicy, seed: int | None, of: Path | None) -> None:
        import torch

        self.policy = policy
        self.description = f"the policy in {of}" if of else "the embedded model, before training"
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def tokens(self, env: raw_env, example: Example) -> Iterator[int]:
        """Sample until the model's context is full.

        Raises:
            ValueError: if the prompt alone fills it.
        """
        agent = env.agent_selection
        self.policy.encode([env.infos[agent]["prompt"]], max_new_tokens=1)  # says so
        observation = env.observe(agent)
        ids = observation["observation"][observation["attention_mask"] == 1]
        while len(ids) < self.policy.backbone.context:
            so_far = {"observation": ids, "attention_mask": np.ones_like(ids)}
            token, _ = self.policy.act(so_far, self._generator)
            yield token
            ids = np.append(ids, token)

    def shares_tokenizer(self, rules: Rules) -> bool:
        """Return whether the game's tokenizer is the model's.

        Raises:
            ValueError: if it is not, and the model's cannot write the task's prompts.
        """
        prompt = rules.task.pioneer_prompt(rules.task.examples[0].query)
        ours, theirs = rules.tokenizer, load_tokenizer(self.policy.backbone.tokenizer)  # type: ignore[arg-type]
        try:
            seen = theirs.decode(theirs.encode(prompt))
        except ValueError as error:  # it has no token for a character
            seen = str(error)
        if seen.split() != prompt.split():
            raise ValueError(
                f"Expected --partner to be a policy that can read {rules.task.name}, got "
                f"{self.description}, which reads {prompt!r} as {seen!r}."
            )
        read = self.policy.encode([prompt], max_new_tokens=1)[0][0].tolist()
        return ours.vocab_size == theirs.vocab_size and ours.encode(prompt) == read


class ScriptedPartner:
    """A perfect partner: the pioneer knows the answer, an observer trusts the one before it.

    An observer that cannot read the one before it guesses: it answers another query.
    """

    description = "a script: as pioneer it knows the answer, as observer it repeats what it reads"

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def tokens(self, env: raw_env, example: Example) -> Iterator[int]:
        """Yield the tokens of the answer."""
        rules = env.rules
        agent = env.agent_selection
        earlier = [info["response"] for info in env.infos.values() if "response" in info]
        if agent == "pioneer_0":
            answer = example.reference
        elif rules.knowledge_transfer:
            answer = earlier[-1]
        else:
            answer = rules.task.sample(self._rng).reference
        if answer is None:
            raise ValueError(
                f"Expected --partner: task {rules.task.name} has a vocabulary of its own, which "
                "the embedded model cannot write, and no gold answers."
            )
        yield from rules.response(answer, agent).ids


class Session:
    """Games of one person in one seat.

    Args:
        env: the game, at `action_level="response"`.
        seat: the person's.
        partner: plays all other seats.
        rng: draws the queries.
    """

    def __init__(self, env: raw_env, seat: str, partner: Partner, rng: np.random.Generator) -> None:
        self._env = env
        self._rules = env.rules
        self._seat = seat
        self._partner = partner
        self._rng = rng
        self._console = Console(highlight=False)
        self._payoffs: list[tuple[list[list[float]], list[float]]] = []

    def run(self) -> None:
        """Play until the person has enough."""
        self._introduce()
        with contextlib.suppress(EOFError):
            again = True
            while again:
                self._play(self._rules.task.sample(self._rng))
                again = _ask("Enter = again, q = quit> ").strip().lower() not in ("q", "quit")
        self._show_means()

    def _introduce(self) -> None:
        task = self._rules.task
        goal = (type(task).__doc__ or "").strip().split("\n")[0]
        lines = [f"{task.name}: {goal}" if goal else task.name, f"You are {self._seat}."]
        if self._rules.observers:
            lines[1] += f" Your partner is {self._partner.description}."
        lines.append(f"Answer in at most {self._rules.max_new_tokens} tokens; Ctrl-D quits.")
        if _can_write(self._rules, " "):
            lines.append("Your text is added to what you read: begin a new word with a space.")
        for line in lines:
            self._console.print(Text(visible(line, self._console.encoding)))

    def _play(self, example: Example) -> None:
        """Play one game."""
        env = self._env
        env.reset(options={"example": example})
        sees_query = self._sees_query(example.query)
        if sees_query:
            self._console.print(query_line(example.query, self._console))
        hidden: list[Panel] = []
        order = env.current_game().agents
        for turn, agent in enumerate(order):
            answers_later = self._seat in order[turn:]
            if agent == self._seat:
                self._answer(turn)
            elif answers_later and not self._rules.knowledge_transfer:
                env.step(list(self._partner_tokens(example)))
                hidden.append(self._panel(turn))
            else:
                self._listen(turn, example, shows_prompt=sees_query or not answers_later)
        if not sees_query:
            self._console.print(query_line(example.query, self._console))
        for panel in hidden:
            self._console.print(panel)
        self._show_rewards(example)

    def _sees_query(self, query: str) -> bool:
        """Return whether the person's prompt tells the query, whatever others answer."""
        task = self._rules.task
        return self._seat == "pioneer_0" or query in task.observer_prompt(query, [])

    def _answer(self, turn: int) -> None:
        """Let the person answer; a text that the game refuses is asked for again."""
        env, console = self._env, self._console
        prompt = env.infos[self._seat]["prompt"]
        name = f"{seat_name(self._rules, env.current_game(), turn)} (you)"
        console.print(turn_panel(name, console, reads=prompt, on_turn=True))
        while True:
            text = _ask("your response> ")
            try:
                env.step(text)
                break
            except ValueError as error:
                console.print(Text(f"{visible(str(error), console.encoding)} Try again."))
        response = env.infos[self._seat]["response"]
        if response != text:
            shown = visible(response, console.encoding)
            limit = f"Cut after {self._rules.max_new_tokens} tokens: "
            console.print(Text.assemble((limit, "yellow"), shown))

    def _listen(self, turn: int, example: Example, *, shows_prompt: bool) -> None:
        """Let the partner answer, and show each token as it comes."""
        env, tokens = self._env, list[int]()
        reads = env.infos[env.agent_selection]["prompt"] if shows_prompt else None
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            for token in self._partner_tokens(example):
                tokens.append(token)
                text = self._rules.text_so_far(tokens)
                live.update(self._panel(turn, text, reads=reads), refresh=True)
                if self._console.is_terminal:
                    time.sleep(_PAUSE_S)
        env.step(tokens)
        self._console.print(self._panel(turn, reads=reads))

    def _partner_tokens(self, example: Example) -> Iterator[int]:
        """Yield the partner's response up to its end."""
        tokens = self._partner.tokens(self._env, example)
        for token in itertools.islice(tokens, self._rules.max_new_tokens):
            yield token
            if token == self._rules.tokenizer.eos_token_id:
                return

    def _panel(self, turn: int, growing: str | None = None, *, reads: str | None = None) -> Panel:
        """Return a panel of the response of a turn, whole or still growing."""
        game = self._env.current_game()
        whole = game.responses[turn] if growing is None else None
        return turn_panel(
            seat_name(self._rules, game, turn),
            self._console,
            reads=reads,
            answers=whole.text if whole else growing,
            note="token limit" if whole and whole.truncated else "",
            on_turn=whole is None,
        )

    def _show_rewards(self, example: Example) -> None:
        env, agents = self._env, self._rules.agents
        if example.reference is not None:
            reference = visible(example.reference, self._console.encoding)
            self._console.print(Text.assemble(("gold answer ", "dim"), (reference, "bold")))
        infos = [env.infos[agent] for agent in agents]
        task_rewards = [info.get("task_rewards", [info["task_reward"]]) for info in infos]
        rewards = [env.rewards[agent] for agent in agents]
        self._payoffs.append((task_rewards, rewards))
        self._print_table(task_rewards, rewards)

    def _show_means(self) -> None:
        if self._payoffs:
            games = "1 game" if len(self._payoffs) == 1 else f"{len(self._payoffs)} games"
            self._console.print(Text(f"\nMean of {games}", style="bold"))
            means = (np.mean(part, axis=0).tolist() for part in zip(*self._payoffs, strict=True))
            self._print_table(*means)

    def _print_table(self, task_rewards: list[list[float]], rewards: list[float]) -> None:
        names = [f"{name} (you)" if name == self._seat else name for name in self._rules.agents]
        sharing = self._rules.reward_sharing
        self._console.print(reward_table(names, task_rewards, rewards, sharing))


def _ask(prompt: str) -> str:
    try:
        line = input(prompt)
    except (EOFError, KeyboardInterrupt):
        print()  # after the prompt
        raise
    if not sys.stdin.isatty():
        print(visible(line))  # a terminal has shown it already
    return line


def _can_write(rules: Rules, text: str) -> bool:
    try:
        rules.tokenizer.encode(text)
    except ValueError:
        return False
    return True

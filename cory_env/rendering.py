"""The game as people read it: as a text, and on the screen while it goes.

What a model writes is shown with all its control characters spelled out, and obeyed nowhere. `rich`
is imported where a terminal is drawn on.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from cory_env.game import GameState, RewardSharing, Rules

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.live import Live
    from rich.panel import Panel
    from rich.text import Text


def transcript(
    rules: Rules,
    state: GameState,
    rewards: Mapping[str, float] | None = None,
    played: Sequence[int] = (),
) -> str:
    """Return an episode as text.

    Args:
        rules: the rules of the game.
        state: the episode so far.
        rewards: what each agent was paid, after the end.
        played: the tokens so far of the agent on turn.
    """
    lines = list(_turn_lines(rules, state))
    turn = len(state.responses)
    if played and turn < len(state.agents):
        name = seat_name(rules, state, turn)
        lines.append(f"{name} answers so far: {rules.text_so_far(played)!r}")
    lines += [f"{agent} is paid: {reward:g}" for agent, reward in (rewards or {}).items()]
    return "\n".join(lines)


class Screen:
    """Draws one episode while it goes. It is no part of the game: a copy of it has drawn nothing.

    On a terminal every turn has a panel, in which the response grows in place, and which stays
    where it is when the turn is over. Elsewhere the lines of `transcript` are printed, each as soon
    as it is known; so they are while another episode grows on the same terminal.
    """

    _growing: ClassVar[Live | None] = None
    """The one display that is redrawn in place, of whichever screen."""

    def __init__(self) -> None:
        self._draws_panels: bool | None = None
        self._num_drawn = 0
        self._live: Live | None = None
        self._stop: weakref.finalize[..., Screen] | None = None

    def __reduce__(self) -> tuple[type[Screen], tuple[()]]:
        return Screen, ()

    def draw(
        self,
        rules: Rules,
        state: GameState,
        *,
        played: Sequence[int] = (),
        task_rewards: Mapping[str, Sequence[float]],
        rewards: Mapping[str, float],
    ) -> None:
        """Draw what is new since the last call.

        Args:
            rules: the rules of the game.
            state: the episode so far.
            played: the tokens so far of the agent on turn.
            task_rewards: each agent's own, one a round, after the end.
            rewards: what each agent was paid, after the end.
        """
        if self._draws_panels is None:
            self._draws_panels = _is_terminal() and not self._is_taken()
        if not self._draws_panels:
            lines = [*_turn_lines(rules, state), *_reward_lines(task_rewards, rewards)]
            for line in lines[self._num_drawn :]:
                print(_encodable(line, sys.stdout.encoding or "utf-8"), flush=True)
            self._num_drawn = len(lines)
            return
        panels = list(_panels(rules, state, task_rewards, rewards))
        for panel in panels[self._num_drawn :]:
            self._put(panel)
        self._num_drawn = len(panels)
        if len(state.responses) < len(state.agents):
            self._grow(_growing_panel(rules, state, played))

    def close(self) -> None:
        """Give the terminal back; what is drawn stays. Drawing goes on below."""
        if self._stop is not None:
            self._stop()
        self._live = self._stop = None

    def _put(self, panel: RenderableType) -> None:
        """Draw something that stays: where a panel was growing, this is its last form."""
        if self._live is None:
            _console().print(panel)
        else:
            self._live.update(panel)
            self.close()

    def _grow(self, panel: RenderableType) -> None:
        """Draw something that will be drawn over, if no other screen is doing so."""
        if self._live is None and not self._is_taken():
            from rich.live import Live

            self._live = Screen._growing = Live(console=_console(), auto_refresh=False)
            self._live.start()
            # Whoever forgets `close`, or is interrupted, gets the terminal back all the same.
            self._stop = weakref.finalize(self, self._live.stop)
        if self._live is not None:
            self._live.update(panel, refresh=True)

    def _is_taken(self) -> bool:
        return Screen._growing is not None and Screen._growing.is_started


def seat_name(rules: Rules, state: GameState, turn: int) -> str:
    """Return who has a turn: the agent, and its role where that is not its name."""
    agent, role = state.agents[turn], rules.turns[turn]
    name = agent if agent == role else f"{agent} as {role}"
    return name if rules.rounds == 1 else f"{name} (round {turn // len(rules.roles) + 1})"


def turn_panel(
    title: str,
    console: Console,
    *,
    reads: str | None = None,
    answers: str | None = None,
    note: str = "",
    on_turn: bool = False,
) -> Panel:
    """Return a panel about one turn.

    Args:
        title: whose turn it is.
        console: what it will be drawn on.
        reads: the prompt; None to leave it out.
        answers: the response; None to leave it out.
        note: what to say below.
        on_turn: whether to highlight it. A response that is there is still growing: if the terminal
            is too low for the whole panel, its end is shown.
    """
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    body = Table.grid(padding=(0, 2))
    body.add_column(style="dim", no_wrap=True)
    body.add_column(overflow="fold")
    if reads is not None:
        style = "" if answers is None else "dim"
        body.add_row("reads", Text(visible(reads, console.encoding), style=style))
    if answers is not None:
        answer = visible(answers, console.encoding)
        if on_turn:
            body.add_row("answers", Text.assemble(answer, ("_", "blink")))
        else:
            body.add_row("answers", Text(answer) if answer else Text("(nothing)", style="dim"))
    return Panel(
        _Tail(body) if on_turn and answers is not None else body,
        title=Text.assemble((title, "bold"), " is on turn" if on_turn else ""),
        title_align="left",
        subtitle=Text(note, style="dim") if note else None,
        subtitle_align="right",
        border_style="green" if on_turn else "dim",
        # Room for the ^C that a terminal echoes: behind a full line it would begin another, and the
        # panel would be drawn over in the wrong place.
        width=max(console.width - len("^C"), 1),
    )


def reward_table(
    names: Iterable[str],
    task_rewards: Iterable[Sequence[float]],
    rewards: Iterable[float],
    sharing: RewardSharing,
) -> RenderableType:
    """Return a table of each agent's own task reward and what it is paid, and why.

    Args:
        names: (A,) the agents.
        task_rewards: (A, N) each agent's own, one a round.
        rewards: (A,) what it is paid.
        sharing: see `Rules.reward_sharing`.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("agent", overflow="fold")  # and no figure is cut
    for heading in ("task reward", "is paid"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, task_reward, reward in zip(names, task_rewards, rewards, strict=True):
        own = "\n".join(f"{one:.3f}" for one in task_reward)  # many beside each other would be cut
        table.add_row(name, own, f"{reward:.3f}")
    return Group(table, Text(f" {_in_words(sharing)}", style="dim"))


def query_line(query: str, console: Console) -> Text:
    """Return the heading of an episode."""
    from rich.text import Text

    return Text.assemble("\n", ("query ", "dim"), (visible(query, console.encoding), "bold"))


def visible(text: str, encoding: str = "utf-8") -> str:
    r"""Spell out what a screen would obey or could not show: `\x1b`, `\u202e`, `\ud800`, ….

    Line breaks are spelled out and kept.

    Args:
        text: any text.
        encoding: what the screen can show.
    """
    shown = "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape").decode() + "\n" * (character == "\n")
        for character in text
    )
    return _encodable(shown, encoding)


class _Tail:
    """As many of the last lines of a renderable as the terminal has room for in a panel."""

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        lines = console.render_lines(self._renderable, options)
        room = max(1, console.height - 3)  # two borders, and the line of the cursor
        for line in lines[-room:]:
            yield from line
            yield Segment.line()


def _turn_lines(rules: Rules, state: GameState) -> Iterator[str]:
    yield f"query: {state.example.query!r}"
    for turn in range(min(len(state.responses) + 1, len(state.agents))):
        name = seat_name(rules, state, turn)
        yield f"{name} reads: {rules.prompt(state, turn)!r}"
        if turn < len(state.responses):
            response = state.responses[turn]
            cut = " (token limit)" if response.truncated else ""
            yield f"{name} answers: {response.text!r}{cut}"


def _reward_lines(
    task_rewards: Mapping[str, Sequence[float]], rewards: Mapping[str, float]
) -> Iterator[str]:
    for agent, reward in rewards.items():
        own = ", ".join(f"{one:g}" for one in task_rewards[agent])
        yield f"{agent} is paid: {reward:g} (task reward {own})"


def _panels(
    rules: Rules,
    state: GameState,
    task_rewards: Mapping[str, Sequence[float]],
    rewards: Mapping[str, float],
) -> Iterator[RenderableType]:
    """Yield what will not change any more."""
    console = _console()
    yield query_line(state.example.query, console)
    for turn, response in enumerate(state.responses):
        yield turn_panel(
            seat_name(rules, state, turn),
            console,
            reads=rules.prompt(state, turn),
            answers=response.text,
            note="token limit" if response.truncated else "",
        )
    if rewards:
        yield reward_table(rewards, task_rewards.values(), rewards.values(), rules.reward_sharing)


def _growing_panel(rules: Rules, state: GameState, played: Sequence[int]) -> Panel:
    turn = len(state.responses)
    return turn_panel(
        seat_name(rules, state, turn),
        _console(),
        reads=rules.prompt(state, turn),
        answers=rules.text_so_far(played),
        on_turn=True,
    )


def _in_words(sharing: RewardSharing) -> str:
    if sharing == "collective":
        paid = "the sum of all"
    elif sharing == "mean":
        paid = "the mean of all"
    elif sharing == "individual":
        paid = "its own"
    elif sharing == "last":
        paid = "that of the last one"
    else:
        paid = f"its own plus {sharing:g} times the others'"
    return f"A task reward is for one's own response; each is paid {paid}."


def _encodable(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _is_terminal() -> bool:
    return sys.stdout.isatty() and _console().is_interactive


def _console() -> Console:
    """Return the console that all of `rich` shares: what others print appears above the panel."""
    from rich import get_console

    return get_console()

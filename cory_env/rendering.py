"""The game as people read it."""

from __future__ import annotations

from collections.abc import Mapping

from cory_env.game import GameState, Rules


def transcript(rules: Rules, state: GameState, rewards: Mapping[str, float] | None = None) -> str:
    """Return an episode as text.

    Args:
        rules: the rules of the game.
        state: the episode so far.
        rewards: what each agent was paid, after the end.
    """
    lines = [f"query: {state.example.query!r}"]
    for turn, (agent, role) in enumerate(zip(state.agents, rules.roles, strict=True)):
        if turn > len(state.responses):
            break
        name = agent if agent == role else f"{agent} as {role}"
        lines.append(f"{name} reads: {rules.prompt(state, turn)!r}")
        if turn < len(state.responses):
            response = state.responses[turn]
            cut = " (token limit)" if response.truncated else ""
            lines.append(f"{name} answers: {response.text!r}{cut}")
    for agent, reward in (rewards or {}).items():
        lines.append(f"{agent} is paid: {reward:g}")
    return "\n".join(lines)

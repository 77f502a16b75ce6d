"""The game in verifiers: an environment whose two seats are agents of their own, and its taskset.

verifiers finds a plug-in by the name of a top-level module, so a file of one import makes it known:
`examples/trainers/cory_v1.py`. Then `vf-eval cory_v1` plays it, and prime-rl trains both seats.

Each seat is asked once. So the harness is no program of its own: it sends one chat completion from
this process, through verifiers' endpoint, which records it.

Source: verifiers 0.4.0, `verifiers/v1/{env,harness,taskset}.py`.
"""

# It has no types to speak of where the package is not installed, as where this is checked.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from cory_env.adapters import missing
from cory_env.registry import make_task
from cory_env.vector import vector_env

try:
    import verifiers.v1 as vf
    from openai import APIError, AsyncOpenAI
    from pydantic import Field
    from verifiers.v1.errors import MODEL_TRANSPORT_ERROR_EXIT_CODE
except ImportError as error:
    raise missing("verifiers", error) from error

SEATS = ("pioneer", "observer")


class CoryTasksetConfig(vf.TasksetConfig):
    """Which game, and which of its episodes: `--env.taskset.game toy`."""

    game: str = "imdb"
    """Registered task."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """What the task itself takes, such as `length` of toy."""
    split: str = "train"
    """Examples to draw from."""
    num_tasks: int = 256
    """Episodes; each is one query."""
    seed: int = 0
    """Of the first episode; those that follow count up."""


class CoryData(vf.TaskData):
    """One episode: the query that its seed draws."""

    game: str
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    split: str
    seed: int


class CoryTask(vf.Task[CoryData]):
    """One episode, which `CoryEnv` plays and scores."""


class CoryTaskset(vf.Taskset[CoryTask, CoryTasksetConfig]):
    """Episodes of one game by their seeds."""

    def load(self) -> Iterator[CoryTask]:
        """Yield the episodes; `prompt` is what the pioneer reads."""
        config = self.config
        games = vector_env(1, make_task(config.game, config.split, **config.options))
        for seed in range(config.seed, config.seed + config.num_tasks):
            prompt = games.reset(seed=seed)[0]
            given = {"game": config.game, "options": config.options, "split": config.split}
            yield CoryTask(CoryData(prompt=prompt, seed=seed, **given), config.task)


def _seat() -> vf.AgentConfig:
    # What runs in the box is nothing: see `CoryHarness`.
    return vf.AgentConfig(runtime=vf.SubprocessConfig())


class CoryEnvConfig(vf.EnvConfig):
    """Who plays (`--env.observer.model M`), and how it is paid (`--env.reward-sharing mean`)."""

    pioneer: vf.AgentConfig = _seat()
    observer: vf.AgentConfig = _seat()
    reward_sharing: Literal["collective", "mean", "individual"] | float = "collective"
    """See `cory_env.options.make_rules`, as for what follows."""
    knowledge_transfer: bool = True
    max_new_tokens: int | None = None


class CoryEnv(vf.Env[CoryEnvConfig]):
    """The pioneer answers, the observer answers having read it, and both are paid."""

    async def run(self, task: CoryTask, agents: vf.Agents) -> None:
        """Play an episode: a run of each agent, with what it is paid and its own task reward."""
        data = task.data
        games = vector_env(
            1,
            make_task(data.game, data.split, **data.options),
            reward_sharing=self.config.reward_sharing,
            knowledge_transfer=self.config.knowledge_transfer,
            max_new_tokens=self.config.max_new_tokens,
        )
        prompts = games.reset(seed=data.seed)
        traces: list[Any] = []
        for name in SEATS:
            turn = vf.Task(vf.TaskData(idx=data.idx, prompt=prompts[0]))
            trace = await getattr(agents, name).run(turn)
            if not trace.ok:
                return  # the failure stands on the trace, and there is nothing to be paid
            traces.append(trace)
            # `last_reply` is stripped, and the game is not to lose a space before a first word.
            prompts = games.step([trace.assistant_messages[-1].content or ""])
        for agent, trace in zip(games.agents, traces, strict=True):
            trace.record_reward("cory", games.rewards[agent][0])
            trace.record_metric("task_reward", games.task_rewards[agent][0])


class CoryHarness(vf.Harness[vf.HarnessConfig]):
    """One chat completion, asked for from this process."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Ask once, and return that all went well, or what did not."""
        system, prompt = self.resolve_text_prompt(data)
        spoken = [("system", system), ("user", prompt)]
        messages: Any = [{"role": role, "content": text} for role, text in spoken if text]
        async with AsyncOpenAI(base_url=endpoint, api_key=secret, max_retries=0) as client:
            try:
                await client.chat.completions.create(model=ctx.model, messages=messages)
            except APIError as error:
                return vf.ProgramResult(MODEL_TRANSPORT_ERROR_EXIT_CODE, "", str(error))
        return vf.ProgramResult(0, "", "")

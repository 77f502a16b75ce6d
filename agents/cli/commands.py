"""What each command takes: a dataclass of flags for each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from agents.config.fields import named
from agents.registries import PRESETS, VARIANTS

Imports = Annotated[
    tuple[str, ...], tyro.conf.arg(name="import", metavar="FILE"), tyro.conf.UseAppendAction
]


@dataclass(frozen=True, kw_only=True)
class FirstFlags:
    """What says which other flags there are."""

    import_: Imports = ()
    algorithm: str = ""
    engine: str = ""


@dataclass(frozen=True, kw_only=True)
class OwnFlags:
    """What to start from, and what to do with a run that is there."""

    preset: Annotated[str, named(PRESETS)] = ""
    """Starting point for the fields; empty for the one that bears the task's name."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """YAML with fields, or the config.json of a run: it beats the preset, and flags beat it."""
    print_config: bool = False
    """Only print all fields as they would hold, as YAML that --config reads."""
    import_: Imports = ()
    """A file or module with plug-ins of your own; may be repeated."""
    resume: bool = False
    """Go on from the last checkpoint of the run."""
    overwrite: bool = False
    """Begin anew in the folder of a run, which is deleted once the new one has begun."""
    yes: bool = False
    """Do not ask before that."""
    threads: str = "auto"
    """How many threads a process computes with; `auto` for OMP_NUM_THREADS, or else one for every
    core that is free."""
    push_to_hub: str = ""
    """ORG/NAME: at the end upload the policies, as `push` does, to private repositories."""


@dataclass(frozen=True, kw_only=True)
class TrainFlags(OwnFlags):
    """What `train` takes besides the fields of the configuration, some of which it reads itself."""

    task: Annotated[str, tyro.conf.Positional] = ""
    """Registered task; empty for that of the file."""
    out: str = ""
    """Run folder; empty for runs/TASK."""
    model: str = ""
    """What a run starts from goes by it."""
    adapter: str = ""
    """So it does."""


@dataclass(frozen=True, kw_only=True)
class CompareFlags:
    """Train variants of one configuration over seeds: a table, a page, and results.json.

    All fields of `train` are flags as well, and hold for every variant. A second call goes on.
    """

    task: Annotated[str, tyro.conf.Positional]
    """Registered task."""
    preset: Annotated[str, named(PRESETS)] = ""
    """Starting point for the fields; empty for the one that bears the task's name."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """YAML with fields, or the config.json of a run: it beats the preset, and flags beat it."""
    import_: Imports = ()
    """A file or module with plug-ins of your own; may be repeated."""
    variants: Annotated[tuple[str, ...], named(VARIANTS)] = ("ppo", "cory-mappo", "cory-ippo")
    """Named changes, or algorithms; the first is tested against."""
    seeds: int = 3
    """Seeds of each, from --seed on; >= 1."""
    kl_coefs: tuple[float, ...] = ()
    """Values of η, for frontiers."""
    learning_rates: tuple[float, ...] = ()
    """Values of the learning rate."""
    model: str = ""
    """See `train --help`: what a run starts from goes by it."""
    adapter: str = ""
    """See there."""
    budget: str = "episodes"
    """What all variants spend alike: `episodes` of a policy, `responses` of a run, as many as the
    fields say; or a limit, such as `responses=6144`, `tokens=1e6` or `seconds=300`."""
    jobs: int = 0
    """Runs at a time, of one thread each; 0 for as many as there are cores."""
    oracle: bool = False
    """Of toy: draw the exact optimum, which no policy can pass, into the plane of reward and KL."""
    dry_run: bool = False
    """Only list the runs."""
    out: str = ""
    """Folder; empty for runs/compare_TASK."""


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags:
    """Score the policies of a run: each alone on held-out queries, as a team, and the reference."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    split: str = ""
    """Queries: `train`, `test`, or another split of the task; empty for the run's own."""
    import_: Imports = ()
    """A file or module with plug-ins of your own; may be repeated."""
    queries: int = 512
    """How many queries, from the first; >= 1."""
    k: tuple[int, ...] = ()
    """Sizes for pass@k and majority@k, such as 1 2 4 8; where the reward is 0 or 1."""
    samples: int = 0
    """Responses per query that these are estimated from; 0 for the largest k, or 1."""
    greedy: bool = False
    """Only take the most probable tokens; otherwise this is done beside the sampling."""
    seed: int = 0
    """Of the sampling."""
    batch_size: int = 256
    """Episodes in memory at a time; the figures do not depend on it."""
    device: str = ""
    """Where to compute: `auto`, `cpu`, `cuda`, …; empty for the run's own."""
    threads: str = "auto"
    """See `train --help`."""


@dataclass(frozen=True, kw_only=True)
class ReportFlags:
    """Write a page about a run, or one about several side by side."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN …]")]
    """Run folders; those that differ in the seed alone are drawn as one curve."""
    out: Path | None = None
    """File to write; None for report.html in the run folder, or comparison.html here."""
    serve: bool = False
    """Show the page in a browser of this machine instead, and renew it while the runs train."""
    port: int = 8321
    """Where `--serve` listens, on this machine only; 0 for any that is free."""


@dataclass(frozen=True, kw_only=True)
class AverageFlags:
    """Write the mean of policies of one base as one policy, which peft or transformers loads.

    Of LoRA adapters the updates are averaged, not the factors; of whole models the weights.
    """

    policies: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="POLICY [POLICY …]")
    ]
    """Runs, for all their final policies; folders of policies; checkpoints of finished runs, such
    as runs/imdb/checkpoints/step_40, or one policy of them, …/step_40/llm_0."""
    out: Path | None = None
    """New or empty folder; must be given."""
    weights: tuple[float, ...] = ()
    """One for each policy, divided by their sum; equal ones if left out."""
    scale: float = 1.0
    """What the mean update of LoRA adapters is multiplied by."""
    rank: int = 0
    """Of the mean adapter; 0 for the smallest by which no layer's update loses 1 %."""


@dataclass(frozen=True, kw_only=True)
class JudgeFlags:
    """Fit a reward model to what a judge prefers among the responses of a run.

    Its policies answer queries of the training split alone, twice each, and the judge is asked in
    both orders. What it fits is a folder for `train --reward`.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    out: Path | None = None
    """New or empty folder for the reward model; must be given."""
    judge: str = "task"
    """`task`: the run's own reward. `lm:MODEL`: a language model, asked A or B. `rubric:FILE`: a
    judge behind an endpoint. `FILE.py:FUNCTION`: yours, from lists of queries, first and second
    responses to a list of A, B and tie."""
    pairs: int = 500
    """Queries that are answered twice; >= 20."""
    learning_rate: float = 1e-3
    """Adam step size of the reward model; > 0. About 1e-5 for a model of a billion parameters."""
    import_: Imports = ()
    """A file or module with plug-ins of your own; may be repeated."""
    seed: int = 0
    """Of queries, responses, sides and the new head."""
    device: str = ""
    """Where to compute; empty for the run's own."""


@dataclass(frozen=True, kw_only=True)
class MergeFlags:
    """Write an adapter and its base as one model, which transformers loads without peft."""

    policy: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="POLICY")]
    """Folder of an adapter, such as runs/imdb/final/llm_0."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """New or empty folder."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights."""
    base: str = ""
    """Base model; empty for the one that the adapter was trained on."""


@dataclass(frozen=True, kw_only=True)
class PushFlags:
    """Upload the policies of a finished run as ORG/NAME-llm_0, ORG/NAME-llm_1, ….

    With their model cards. Uploading again adds a commit.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ORG/NAME")]
    """Owner and beginning of the names."""
    public: bool = False
    """Let everyone see repositories that are new."""


@dataclass(frozen=True, kw_only=True)
class PlayFlags:
    """Take a seat in the game: read what the seat reads, type a response, see what it earns.

    Your partner answers token by token, as it samples. Enter plays again; q or Ctrl-D quits, and
    shows the means. Lines can be piped in as well: a response, an empty line, a response, ….
    """

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    """Registered task."""
    seat: str = ""
    """Yours: `pioneer_0`, `observer_0`, …; empty for observer_0, or pioneer_0 if there is none."""
    partner: Annotated[Path | None, tyro.conf.arg(metavar="POLICY")] = None
    """Who has the other seats: a folder such as runs/imdb/final/llm_0. None for the embedded model,
    or, for a task with a vocabulary of its own such as toy, a script that plays perfectly."""
    import_: Imports = ()
    """A file or module with plug-ins of your own; may be repeated."""
    split: str = "test"
    """Queries to play: `train`, `test`, or another split of the task."""
    task_options: str = ""
    """What the task itself takes, such as `difficulty=1`; several with commas."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Of queries and sampling; None for a new one every time."""
    observers: int = 1
    """Agents after the pioneer; >= 0."""
    rounds: int = 1
    """How often every agent answers; >= 1."""
    reward_sharing: str = "collective"
    """`collective` (sum), `mean`, `individual`, `last` (that of the last response), or a number c:
    own + c times the others'."""
    knowledge_transfer: bool = True
    """Whether observers read the earlier responses."""


@dataclass(frozen=True, kw_only=True)
class ListFlags:
    """List what is known by its name, with a line about each: built in, installed, imported."""

    kind: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="KIND")] = ""
    """`tasks`, `rewards`, `algorithms`, `critic-bodies`, `engines`, `trackers`, `presets` or
    `variants`; empty for all."""
    import_: Imports = ()
    """A file or module with plug-ins of your own; may be repeated."""


@dataclass(frozen=True, kw_only=True)
class NewTaskFlags:
    """Write a package with a task, a reward, tests and entry points, for you to change."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Of the task, and of the new folder."""
    out: Path = Path(".")
    """Folder to write it in."""


@dataclass(frozen=True, kw_only=True)
class EnvFlags:
    """Print versions of the code and the libraries, and the machine, for a report of an error."""


@dataclass(frozen=True, kw_only=True)
class CompletionFlags:
    """Print a script by which a shell completes the command `cory`."""

    shell: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SHELL")]
    """`bash`, `zsh` or `tcsh`."""


COMMANDS: dict[str, type[Any]] = {
    "train": TrainFlags,
    "compare": CompareFlags,
    "evaluate": EvaluateFlags,
    "report": ReportFlags,
    "average": AverageFlags,
    "judge": JudgeFlags,
    "merge": MergeFlags,
    "push": PushFlags,
    "play": PlayFlags,
    "list": ListFlags,
    "new-task": NewTaskFlags,
    "env": EnvFlags,
    "completion": CompletionFlags,
}
"""What each command takes, by its name."""

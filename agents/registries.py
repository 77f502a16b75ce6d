"""What a learner's configuration knows by its name, besides tasks and rewards of `cory_env`.

Each name stands here and nowhere else: the configuration checks names, errors suggest and `--help`
lists them from these tables. Nothing is imported before it is asked for, so they load no torch.
`register_…(name)` is the decorator that adds an entry; a distribution brings its own by an entry
point in the group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agents.yaml_files import read_yaml
from cory_env.registry import Registry

ALGORITHMS: Registry[Any] = Registry(
    "algorithm",
    "cory_env.algorithms",
    {
        "mappo": "agents.algorithms.mappo:MAPPO",
        "ippo": "agents.algorithms.ippo:IPPO",
        # On a game without observers: the baseline differs from CORY in nothing but the game.
        "ppo": "agents.algorithms.ippo:PPO",
        "happo": "agents.algorithms.happo:HAPPO",
        "reinforce++": "agents.algorithms.reinforce_plus_plus:ReinforcePlusPlus",
        "rloo": "agents.algorithms.rloo:RLOO",
        "grpo": "agents.algorithms.grpo:GRPO",
        "dr_grpo": "agents.algorithms.dr_grpo:DrGRPO",
        "gspo": "agents.algorithms.gspo:GSPO",
        "vine": "agents.algorithms.vine:Vine",
        "archer": "agents.algorithms.archer:Archer",
        "awr": "agents.algorithms.awr:AWR",
        "expert_iteration": "agents.algorithms.expert_iteration:ExpertIteration",
        "rcrl": "agents.algorithms.rcrl:RCRL",
        "sft": "agents.algorithms.sft:SFT",
        "step_dpo": "agents.algorithms.step_dpo:StepDPO",
    },
    base="agents.algorithms.base:Algorithm",
)

CRITIC_BODIES: Registry[Any] = Registry(
    "critic body",
    "cory_env.critic_bodies",
    {
        "reference": "agents.models.critic_bodies:ReferenceBody",
        "policy": "agents.models.critic_bodies:PolicyBody",
        "own": "agents.models.critic_bodies:OwnBody",
    },
    base="agents.models.critic_bodies:CriticBody",
)

ENGINES: Registry[Any] = Registry(
    "engine",
    "cory_env.engines",
    {
        "builtin": "agents.engines.builtin:BuiltinEngine",
        "vllm": "agents.engines.vllm_local:VLLMEngine",
        "vllm_server": "agents.engines.vllm_server:VLLMServerEngine",
    },
    base="agents.engines.base:Engine",
)

TRACKERS: Registry[Any] = Registry(
    "tracker",
    "cory_env.trackers",
    {
        "tensorboard": "agents.watching.tensorboard:TensorBoardTracker",
        "wandb": "agents.watching.wandb:WandbTracker",
        "trackio": "agents.watching.trackio:TrackioTracker",
    },
    base="agents.watching.tracker:Tracker",
)


class PresetFile:
    """A preset that ships as a file: a user may copy it, change it, and pass it as `--config`."""

    def __init__(self, name: str):
        self.path = Path(__file__).parent / "presets" / f"{name}.yaml"
        """Begins with comments, the first of which is the line that lists show."""
        self.__doc__ = self.path.read_text(encoding="utf-8").partition("\n")[0].strip("# ")

    def __call__(self) -> dict[str, Any]:
        """Return its fields."""
        return {name: entry.value for name, entry in read_yaml(self.path).items()}


PRESETS: Registry[Callable[[], dict[str, Any]]] = Registry(
    "preset",
    "cory_env.presets",
    {
        name: PresetFile(name)
        for name in (
            *("imdb", "imdb-individual", "arithmetic", "smollm2", "gsm8k", "toy", "lesson"),
            *("paper-imdb", "paper-gsm8k"),
        )
    },
)
"""What returns the fields of a starting point. One that bears a task's name is what `train TASK`
starts from with the embedded model; one that bears a model's name, with that model."""

VARIANTS: Registry[Callable[[], Mapping[str, Any]]] = Registry(
    "variant",
    "cory_env.variants",
    {
        "ppo": "agents.studies.variants:ppo",
        "cory-mappo": "agents.studies.variants:cory_mappo",
        "cory-ippo": "agents.studies.variants:cory_ippo",
        "cory-happo": "agents.studies.variants:cory_happo",
        "no-transfer": "agents.studies.variants:no_transfer",
        "no-exchange": "agents.studies.variants:no_exchange",
        "plateau": "agents.studies.variants:plateau",
        "individual": "agents.studies.variants:individual",
        "mean": "agents.studies.variants:mean",
        "competitive": "agents.studies.variants:competitive",
        "shared-credit": "agents.studies.variants:shared_credit",
        "value-handover": "agents.studies.variants:value_handover",
        "solo-kl": "agents.studies.variants:solo_kl",
        "individual-solo-kl": "agents.studies.variants:individual_solo_kl",
        "value-solo-kl": "agents.studies.variants:value_solo_kl",
        "three": "agents.studies.variants:three",
    },
)
"""Functions that return the fields that `compare` changes. Every algorithm is a variant of its own
name, too."""

register_algorithm = ALGORITHMS.register
register_critic_body = CRITIC_BODIES.register
register_engine = ENGINES.register
register_tracker = TRACKERS.register
register_preset = PRESETS.register
register_variant = VARIANTS.register

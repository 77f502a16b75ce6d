"""What a learner's configuration knows by its name, besides tasks and rewards of `cory_env`.

Each name stands here and nowhere else: the configuration checks names, errors suggest and `--help`
lists them from these tables. Nothing is imported before it is asked for, so they load no torch.
`register_…(name)` is the decorator that adds an entry; a distribution brings its own by an entry
point in the group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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

PRESETS: Registry[Callable[[], dict[str, Any]]] = Registry(
    "preset",
    "cory_env.presets",
    {
        "imdb": "agents.config.presets:imdb",
        "imdb-individual": "agents.config.presets:imdb_individual",
        "imdb-handover": "agents.config.presets:imdb_handover",
        "arithmetic": "agents.config.presets:arithmetic",
        "smollm2": "agents.config.presets:smollm2",
        "gsm8k": "agents.config.presets:gsm8k",
        "toy": "agents.config.presets:toy",
        "paper-imdb": "agents.config.presets:paper_imdb",
        "paper-gsm8k": "agents.config.presets:paper_gsm8k",
    },
)
"""Functions that return the fields of a starting point. One that bears a task's name is what
`train TASK` starts from with the embedded model; one that bears a model's name, with that model."""

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

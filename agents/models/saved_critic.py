"""A critic in a folder of its own: `critic.safetensors`, and `critic.json` for what it reads.

A body of its own lies beside them, as a policy's adapter or model does. What it takes to compute
values with them is `agents.policies.critics`.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agents.maths.moments import Moments
from agents.models.backbone import Backbone
from agents.models.critic import Critic
from agents.records.folder import RunFolder
from agents.records.objects import read_object, write_json
from agents.registries import CRITIC_BODIES

CRITIC_CONFIG = "critic.json"


CRITIC_WEIGHTS = "critic.safetensors"


_SIZES = ("width", "num_seats", "max_new_tokens")


def save_critic(
    critic: Critic,
    backbone: Backbone,
    folder: Path,
    *,
    body: str,
    units: Moments,
    writes: bool = True,
) -> None:
    """Write a critic whose values are in units of reward.

    Args:
        critic: what was trained.
        backbone: holds its body, if that is its own; all ranks must call, as for a policy.
        folder: to write to.
        body: the name of its body's kind.
        units: of what it predicts, which are multiplied into its last layer.
        writes: whether this rank writes.
    """
    if critic.body.own:
        backbone.save_pretrained(critic.name, folder, writes=writes)
    if not writes:
        return
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.detach().cpu().clone() for key, tensor in critic.state_dict().items()}
    tensors["out.weight"] *= units.std
    tensors["out.bias"] = units.restored(tensors["out.bias"])
    save_file(tensors, folder / CRITIC_WEIGHTS)
    about = {
        "name": critic.name,
        "owner": critic.owner,
        "body": body,
        "base": backbone.base.name_or_path,
        "width": critic.out.in_features,
        "num_seats": critic.num_seats,
        "max_new_tokens": critic.max_new_tokens,
    }
    write_json(folder / CRITIC_CONFIG, about)


def read_critic(folder: Path) -> tuple[Critic, str]:
    """Read a critic, and the name of the base model that its body is of.

    Raises:
        ValueError: if there is none in the folder, or it is damaged.
    """
    if not (folder / CRITIC_CONFIG).is_file():
        raise ValueError(
            f"Expected the folder of a critic, such as runs/imdb/final/critic, got {folder}, which "
            f"has no {CRITIC_CONFIG}."
        )
    about = read_object(folder / CRITIC_CONFIG)
    try:
        body = CRITIC_BODIES.find(str(about["body"]))()
        width, seats, length = (int(str(about[key])) for key in _SIZES)
        name, owner = str(about["name"]), str(about["owner"])
        critic = Critic(width, seats, length, 0, body=body, name=name, owner=owner)
        critic.load_state_dict(load_file(folder / CRITIC_WEIGHTS))
        return critic.requires_grad_(requires_grad=False), str(about["base"])
    except (KeyError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"Expected a whole critic in {folder}, got {reason}.") from error


def owner_folder(critic: Critic, folder: Path) -> Path:
    """Return where the policy lies, as it was last, that a critic in a folder was trained with."""
    run = RunFolder.of_policy(folder)
    return run.last_policy_path(critic.owner) if run else folder.parent / critic.owner

"""Sharded layers: FSDP2 as the configuration file of `accelerate launch` asks for it.

The weights of every decoder layer are sharded over the ranks and gathered while the layer computes;
over those of one machine alone, with a copy on each machine, if the file says so.
Adapters, embeddings, the last norm, the head and the critics are replicated on every rank. Options
of the file that are not supported are refused. Ranks and collectives are in `world.py`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from agents.distributed.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """How the decoder layers of all models of a run are sharded."""

    world: World
    mesh: DeviceMesh
    reshard_after_forward: bool = True
    """Gather a layer anew for the backward pass (ZeRO-3) instead of keeping it (ZeRO-2)."""
    layer_names: tuple[str, ...] = ()
    """Classes of the layers; empty for those that can be checkpointed, one by one."""

    def shard(self, model: nn.Module, body: nn.Module) -> None:
        """Shard the decoder layers of a model.

        Where a layer has frozen weights, only these are sharded, and adapters stay replicated.

        Args:
            model: on its device, with `requires_grad` set for the whole run.
            body: the submodule that runs the layers.

        Raises:
            ValueError: if the model has no such layers.
        """
        layers = [module for module in body.modules() if self._is_layer(module)]
        if not layers:
            raise ValueError(
                f"Expected decoder layers ({', '.join(self.layer_names) or 'of transformers'}) to "
                f"spread over the processes, found none in {type(model).__name__}: take "
                "configs/data_parallel.yaml."
            )
        trained = {p for p in model.parameters() if p.requires_grad}
        frozen = {p for layer in layers for p in layer.parameters()} - trained
        whole = trained if frozen else set()
        for layer in layers:
            spread = fully_shard(
                layer,
                mesh=self.mesh,
                reshard_after_forward=self.reshard_after_forward,
                ignored_params=whole,
            )
            # Losses are shares that add up: gradients are summed, not averaged.
            spread.set_gradient_divide_factor(1.0)
            spread.set_force_sum_reduction_for_comms(True)
        # The root holds nothing; it lets the layers share one schedule of gathering.
        fully_shard(body, mesh=self.mesh, ignored_params=set(body.parameters()))

    def _is_layer(self, module: nn.Module) -> bool:
        if self.layer_names:
            return type(module).__name__ in self.layer_names
        return isinstance(module, GradientCheckpointingLayer)


def check_launcher() -> None:
    """Check the kind of the launcher before the ranks connect.

    Raises:
        ValueError: if it is DeepSpeed.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        raise ValueError(
            "Expected a launcher's file with FSDP2, got DeepSpeed, whose engine holds one model "
            "and one optimizer: take configs/zero2.yaml or configs/zero3.yaml, which spread the "
            "same things through FSDP2."
        )


def asked_sharding(world: World, device: torch.device, quantization: str) -> Sharding | None:
    """Return the sharding that the launcher's file asks for; None if weights are replicated.

    Raises:
        ValueError: if the file asks for what is not supported.
    """
    if os.environ.get("ACCELERATE_USE_FSDP") != "true" or world.size == 1:
        return None
    from accelerate.utils import FullyShardedDataParallelPlugin

    if os.environ.get("FSDP_VERSION") != "2":
        raise ValueError("Expected fsdp_version 2 in the launcher's file: take configs/fsdp2.yaml.")
    plugin = FullyShardedDataParallelPlugin()
    _check(plugin, quantization)
    return Sharding(
        world=world,
        mesh=_mesh(world, device),
        reshard_after_forward=bool(plugin.reshard_after_forward),
        layer_names=tuple(plugin.transformer_cls_names_to_wrap or ()),
    )


def _mesh(world: World, device: torch.device) -> DeviceMesh:
    """Return the mesh that the launcher's file asks for: all ranks, or copies of sharded layers.

    Raises:
        ValueError: if copies times shards are not all ranks.
    """
    copies, shards = (
        int(os.environ.get(f"PARALLELISM_CONFIG_DP_{name}_SIZE", "1"))
        for name in ("REPLICATE", "SHARD")
    )
    if copies == 1:
        return init_device_mesh(device.type, (world.size,))
    if copies * shards != world.size:
        raise ValueError(
            f"Expected dp_replicate_size × dp_shard_size to be the {world.size} processes, got "
            f"{copies} × {shards}: write the number of machines and that of the processes of each "
            "into the launcher's file. See configs/hsdp.yaml."
        )
    return init_device_mesh(device.type, (copies, shards), mesh_dim_names=("replicate", "shard"))


def _check(plugin: Any, quantization: str) -> None:
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    size_based = os.environ.get("FSDP_AUTO_WRAP_POLICY", "").upper() == "SIZE_BASED_WRAP"
    for found, field, instead in (
        (os.environ.get("FSDP_OFFLOAD_PARAMS") == "true", "fsdp_offload_params", "false"),
        (plugin.cpu_ram_efficient_loading, "fsdp_cpu_ram_efficient_loading", "false"),
        (
            plugin.activation_checkpointing,
            "fsdp_activation_checkpointing",
            "false, and --gradient-checkpointing",
        ),
        (precision != "no", "mixed_precision", "'no', and --dtype"),
        (size_based, "fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"),
    ):
        if found:
            raise ValueError(
                f"Expected another {field} in the launcher's file: write {instead}. See "
                "configs/fsdp2.yaml."
            )
    if quantization != "none":
        raise ValueError(
            f"Expected quantization none with FSDP2, got {quantization}: take "
            "configs/data_parallel.yaml, or leave out --quantization."
        )


def whole_tensors(tensors: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """Gather sharded tensors, one after the other; a collective that all ranks must call.

    Args:
        tensors: by name, in the same order on all ranks.
        keep: whether this rank keeps the gathered tensors; the others only send their shards.

    Returns:
        Plain tensors, gathered ones on the CPU; empty without `keep`.
    """
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        gathered = tensor
        if isinstance(tensor, DTensor):
            gathered = tensor.full_tensor().detach()
            gathered = gathered.cpu() if keep else gathered
        if keep:
            whole[name] = gathered
    return whole


def spread_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Shard a tensor, which every rank holds whole, as a parameter of its shape is sharded."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    tensor = tensor.to(parameter.device)
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], limit: float, world: World) -> Tensor:
    """Clip gradients, sharded or not, to a common norm; return their norm before."""
    parameters = list(parameters)
    if not any(isinstance(parameter, DTensor) for parameter in parameters):
        return nn.utils.clip_grad_norm_(parameters, limit)
    parts: list[DTensor] = []
    own: list[Tensor] = []
    for parameter in parameters:
        if isinstance(parameter.grad, DTensor):
            parts.append(parameter.grad)
        elif parameter.grad is not None:
            own.append(parameter.grad)
    zero = torch.zeros((), device=parameters[0].device)
    shares = (part.to_local().square().sum() / _copies(part) for part in parts)
    squares = world.total(sum(shares, zero))
    norm = sum((gradient.square().sum() for gradient in own), squares).sqrt()
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)  # as torch does
    for gradient in (*(part.to_local() for part in parts), *own):
        gradient.mul_(factor)
    return norm


def _copies(tensor: DTensor) -> int:
    """Return how many ranks hold each shard of a tensor."""
    kept = zip(tensor.device_mesh.shape, tensor.placements, strict=True)
    return math.prod(size for size, placement in kept if placement.is_replicate())


def held_bytes(parameters: Iterable[Tensor]) -> int:
    """Return the bytes of parameters that this rank holds."""
    local = [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
    return sum(tensor.numel() * tensor.element_size() for tensor in local)

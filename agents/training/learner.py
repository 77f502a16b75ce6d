"""The learner: optimizers by name, the optimizer step, and all that a checkpoint keeps of them.

It is handed batches and knows neither games nor roles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.distributed.tensor import DTensor

from agents.algorithms.base import Algorithm
from agents.config.algorithm import AlgorithmConfig, CriticConfig
from agents.config.run import RunConfig
from agents.distributed.sharding import clip_gradients, spread_like
from agents.distributed.world import World
from agents.ledger import Ledger
from agents.maths.losses import Totals
from agents.maths.schedules import schedule_factor, stratified_order
from agents.models.pruning import Pruner
from agents.policies.weights import check_policy_tensors, part_of
from agents.records.checkpoint import optimizer_tensors, restore_optimizer
from agents.training.histograms import Histograms
from agents.types import LossOutput, Prepared, TokenBatch


class Learner:
    """The optimizers of policies and critics, and the steps that they take."""

    def __init__(
        self,
        config: RunConfig,
        algorithm: Algorithm,
        world: World,
        histograms: Histograms,
        ledger: Ledger,
    ):
        """Make an optimizer for every policy and every critic of an algorithm."""
        self.config = config
        self.algorithm = algorithm
        self.world = world
        self.histograms = histograms
        self.ledger = ledger
        self.policies, self.critics = algorithm.policies, algorithm.critics
        self.owners = list(dict.fromkeys(critic.owner for critic in self.critics.values()))
        """The first policy of each critic: its name among the optimizers and in checkpoints."""
        self.optimizers = {
            name: _adam(policy.parameters().values(), config.learning_rate)
            for name, policy in self.policies.items()
        }
        self.critic_optimizers = {
            owner: _adam(self.critic_parameters(owner).values(), self._critic_learning_rate)
            for owner in self.owners
        }
        self.pruners = {
            name: Pruner(policy.backbone, name, config.lora_prune, config.lora_prune_every)
            for name, policy in self.policies.items()
            if config.lora_prune
        }
        self.skipped_in_a_row = dict.fromkeys(self.policies, 0)
        self.beginnings: dict[str, Tensor] = {}
        self.begin()

    def begin(self) -> None:
        """Take the weights that the policies have for those that the run begins with."""
        if self.algorithm.restarts:
            self.beginnings = {
                f"{name}/{key}": parameter.detach().clone()
                for name, policy in self.policies.items()
                for key, parameter in policy.parameters().items()
            }

    @torch.no_grad()
    def _restart(self, policy: str) -> None:
        """Give a policy the weights that the run began with, and a fresh optimizer."""
        for key, parameter in self.policies[policy].parameters().items():
            parameter.copy_(self.beginnings[f"{policy}/{key}"])
        self.optimizers[policy].state.clear()
        if policy in self.pruners:
            self.pruners[policy].apply()

    @property
    def _critic_learning_rate(self) -> float:
        config = self.algorithm.config
        return config.critic_learning_rate if isinstance(config, CriticConfig) else 0.0

    def critic_parameters(self, policy: str) -> dict[str, nn.Parameter]:
        """Return what the critic of a policy trains, by name."""
        critic = self.critics[policy]
        parameters = dict(critic.named_parameters())
        if critic.body.own:
            trunk = self.policies[policy].backbone.parameters(critic.name)
            parameters |= {f"body/{key}": parameter for key, parameter in trunk.items()}
        return parameters

    def set_learning_rates(self, iteration: int) -> None:
        """Follow the schedule."""
        config = self.config
        planned = config.planned(iteration, self.ledger.row())
        factor = schedule_factor(config.schedule, iteration, planned, config.warmup)
        for optimizers, rate in (
            (self.optimizers, config.learning_rate),
            (self.critic_optimizers, self._critic_learning_rate),
        ):
            for optimizer in optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = factor * rate

    def figures(self, policy: str) -> dict[str, float]:
        """Return the present learning rates of a policy and its critic, and what is pruned."""
        rates = {"learning_rate": self.optimizers[policy].param_groups[0]["lr"]}
        if policy in self.critics:
            critic = self.critic_optimizers[self.critics[policy].owner].param_groups[0]
            rates["critic_learning_rate"] = critic["lr"]
        if policy in self.pruners:
            rates["pruned"] = self.pruners[policy].pruned
        return rates

    def learn(
        self,
        policy: str,
        turns: Iterable[Prepared],
        generator: torch.Generator,
        *,
        counts: bool = True,
    ) -> dict[str, float]:
        """Take all optimizer steps of a policy and return the mean metrics of its losses.

        Args:
            policy: who learns.
            turns: all of its turns.
            generator: of the order of its minibatches.
            counts: whether these are the turns that histograms are of.
        """
        config, turns = self.config, list(turns)
        batches = [turn.batch for turn in turns if turn.batch]
        if counts:
            self.histograms.start(policy, [turn.scored for turn in turns])
        if any(turn.restarts for turn in turns):
            self._restart(policy)
        if not batches:
            return dict.fromkeys((*self.algorithm.losses, "gradient_norm", "skipped"), 0.0)
        batch = type(batches[0]).join(batches)
        lengths = self.world.gather(batch.response_mask.sum(1).cpu())
        places = _places([len(part) for part in batches], self.world.size)
        climbs = self.algorithm.config
        limit = climbs.max_step_kl if isinstance(climbs, AlgorithmConfig) else None
        history: list[dict[str, Tensor]] = []
        for _ in range(config.epochs):
            if counts:
                self.histograms.start_epoch(policy)
            order = stratified_order(len(lengths), config.minibatch_size, generator)
            steps = [
                self.step(policy, batch, rows, _totals(lengths[rows]), counts=counts)
                for rows in places[order]
            ]
            history += steps
            self.ledger.add(update_tokens=int(batch.response_mask.sum()))
            if limit is not None and _mean(steps, "approx_kl") > limit:
                break
        return {key: _mean(history, key) for key in history[0]}

    def step(
        self,
        policy: str,
        batch: TokenBatch,
        rows: Tensor,
        totals: Totals,
        *,
        counts: bool = True,
    ) -> dict[str, Tensor]:
        """Take one optimizer step on some rows of everybody's batch, unless it is not finite.

        Args:
            policy: who learns.
            batch: this process's rows.
            rows: of the batch of all processes, one process's behind the other's.
            totals: of these rows.
            counts: whether histograms are of these rows.
        """
        parameters = list(self.policies[policy].parameters().values())
        own, learning = self.optimizers[policy], list(parameters)
        optimizers = [own]
        if policy in self.critics:
            optimizers.append(self.critic_optimizers[self.critics[policy].owner])
            learning += self.critic_parameters(policy).values()
        metrics = self._accumulate(policy, batch, rows, totals, counts=counts)
        self.world.total_gradients(learning)
        norm = clip_gradients(parameters, self.config.max_grad_norm, self.world)
        finite = bool(torch.isfinite(metrics.pop("loss")) & torch.isfinite(norm))
        self.skipped_in_a_row[policy] = 0 if finite else self.skipped_in_a_row[policy] + 1
        moves = finite and policy not in self.config.frozen
        for optimizer in optimizers:
            if moves if optimizer is own else finite:
                optimizer.step()
            optimizer.zero_grad()  # gradients of one policy at a time are in memory
        if policy in self.pruners:
            self.pruners[policy].settle(self.world, stepped=moves)
        return {
            **{key: torch.nan_to_num(value) for key, value in metrics.items()},
            "gradient_norm": torch.nan_to_num(norm.detach(), posinf=0.0),
            "skipped": torch.tensor(float(not finite)),
        }

    def _accumulate(
        self, policy: str, batch: TokenBatch, rows: Tensor, totals: Totals, *, counts: bool
    ) -> dict[str, Tensor]:
        """Add up the gradients of this process's share of the rows, some at a time."""
        shares: list[dict[str, Tensor]] = []
        own = rows[rows // len(batch) == self.world.rank] - self.world.rank * len(batch)
        size = self.config.microbatch_size or len(own)
        # Batches are of the class that the algorithm's own `prepare` makes.
        loss = cast("Callable[[str, Any, Totals], LossOutput]", self.algorithm.loss)
        for part in own.to(batch.response_ids.device).split(size):
            part_batch = batch.take(part)
            output = loss(policy, part_batch, totals)
            output.loss.backward()
            if counts:
                self.histograms.add(policy, part_batch, output)
            shares.append({"loss": output.loss.detach(), **output.metrics})
        sums = self.world.total(torch.stack([torch.stack([*s.values()]) for s in shares]).sum(0))
        return dict(zip(shares[0], sums, strict=True))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything that the next step depends on: tensors by name, and the rest as JSON.

        Tensors that are spread over processes are so here, too (see `whole_tensors`).
        """
        tensors: dict[str, Tensor] = {}
        for name, parameters, optimizer in self._trained():
            tensors |= {f"{name}/{key}": parameter for key, parameter in parameters.items()}
            tensors |= optimizer_tensors(_optimizer_of(name), optimizer)
        tensors |= {f"beginning/{key}": weights for key, weights in self.beginnings.items()}
        for name, pruner in self.pruners.items():
            tensors |= {f"prune/{name}/{key}": value for key, value in pruner.tensors().items()}
        return tensors, {"skipped_in_a_row": self.skipped_in_a_row}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go back to a state.

        Raises:
            ValueError: if it is of another model or configuration.
        """
        check_policy_tensors(self.policies, tensors)
        for name, parameters, optimizer in self._trained():
            for key, parameter in parameters.items():
                parameter.copy_(spread_like(parameter, tensors[f"{name}/{key}"]))
            restore_optimizer(_optimizer_of(name), optimizer, tensors, spread_like)
        for key, weights in self.beginnings.items():
            weights.copy_(spread_like(weights, tensors[f"beginning/{key}"]))
        for name, pruner in self.pruners.items():
            pruner.load_tensors(part_of(tensors, f"prune/{name}/"))
        self.skipped_in_a_row = dict(meta["skipped_in_a_row"])

    def _trained(self) -> Iterator[tuple[str, dict[str, nn.Parameter], torch.optim.Optimizer]]:
        for name, policy in self.policies.items():
            yield f"policy/{name}", policy.parameters(), self.optimizers[name]
        for owner in self.owners:
            optimizer = self.critic_optimizers[owner]
            yield f"critic/{owner}", self.critic_parameters(owner), optimizer


def _places(sizes: Sequence[int], processes: int) -> Tensor:
    """Return where the rows of several turns are in the batches of all processes.

    Rows are numbered as in a single process: turn by turn, and in a turn process by process. In the
    batches, one process's behind the other's, they are process by process, and there turn by turn.

    Args:
        sizes: rows of each turn in a process.
        processes: how many.
    """
    starts = torch.arange(processes)[:, None] * sum(sizes)
    parts = torch.arange(sum(sizes)).split(list(sizes))
    return torch.cat([(starts + part).flatten() for part in parts])


def _totals(lengths: Tensor) -> Totals:
    """Return the totals of rows of these lengths; what has no token that counts is no episode."""
    return Totals(max(1, int((lengths > 0).sum())), max(1, int(lengths.sum())))


def _mean(metrics: Iterable[Mapping[str, Tensor]], key: str) -> float:
    return float(torch.stack([step[key] for step in metrics]).mean())


def _optimizer_of(name: str) -> str:
    return name.replace("policy/", "optimizer/").replace("critic/", "critic_optimizer/")


def _adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    parameters = list(parameters)
    # One pass over memory instead of ten. Tensors that are spread over processes know no such form.
    fused = not any(isinstance(parameter, DTensor) for parameter in parameters)
    optimizer = torch.optim.Adam(parameters, learning_rate, fused=fused)
    if fused:
        # It writes to the weights behind autograd's back; copies in bfloat16 go by their version.
        optimizer.register_step_post_hook(lambda *_: increment_version(parameters))
    return optimizer

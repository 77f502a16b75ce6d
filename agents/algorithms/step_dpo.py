"""Step DPO: where a response goes wrong, the gold step is preferred to the policy's own.

After StepAgent (Deng et al. 2024, arXiv 2411.03817), which compares an agent's next step with the
expert's, and Step-DPO (Lai et al. 2024, arXiv 2406.18629, eq. 4); the loss is that of DPO (Rafailov
et al. 2023, arXiv 2305.18290, eq. 7) on one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch.nn.functional import logsigmoid

from agents.algorithms.configs import StepDPOConfig
from agents.algorithms.gold import first_difference, gold_ids, steps
from agents.algorithms.likelihood import Likelihood
from agents.algorithms.replay import Item, items_of, token_batch, whole
from agents.maths.losses import Totals
from agents.policies.llm import response_hidden
from agents.types import Explored, LossOutput, PairBatch, Prepared, Rollout, TokenBatch

Pair = tuple[Item, Item]
"""The gold step and the policy's own, behind the prompt and the steps that both have taken."""


class StepDPO(Likelihood):
    """min −log σ(β [Δ(a*) − Δ(a)]) − c log π(a*), with Δ = log π − log π_0 of a whole step.

    a is the first step of a wrong response that is not the gold one, a*. Before it both have the
    same steps, so that states are those that the policy comes to by itself.
    """

    # Differs from StepAgent, whose equations were not found: no expert is asked on line, and no
    # step is sampled anew; from Step-DPO: the likelihood of the gold step is kept from falling.
    Config = StepDPOConfig
    config: StepDPOConfig  # pyright: ignore[reportIncompatibleVariableOverride] # never set anew
    needs_gold = True
    losses = ("nll", "preferred")

    @torch.no_grad()
    def prepare(self, rollout: Rollout, explored: Explored | None = None) -> list[Prepared]:
        """Return the pairs of each policy; none if nothing it said was wrong."""
        prepared = [Prepared(scored=self.scored(turn), batch=None) for turn in rollout.turns]
        for name in dict.fromkeys(turn.policy for turn in rollout.turns):
            seats = [seat for seat, turn in enumerate(rollout.turns) if turn.policy == name]
            own = [pair for seat in seats for pair in self._pairs(rollout, seat)]
            rows = len(rollout.queries) * self.world.size
            pairs = whole(self.world.gather_list(own), rows)
            if pairs:
                batch = self._batch(name, pairs[self.world.rows(len(pairs))])
                prepared[seats[0]] = replace(prepared[seats[0]], batch=batch)
        return prepared

    def loss(self, policy: str, batch: TokenBatch, totals: Totals | None = None) -> LossOutput:
        """Return the mean loss of the pairs."""
        assert isinstance(batch, PairBatch)
        totals = totals or Totals.of(batch.response_mask)
        log_probs = self.policies[policy].log_probs(batch)
        others = self.policies[policy].log_probs(batch.rejected)
        margins = log_probs.sum(1) - others.sum(1) - batch.margins
        nll = -log_probs.sum() / totals.tokens
        loss = -logsigmoid(self.config.beta * margins).sum() / totals.episodes
        preferred = (margins.detach() > 0).sum() / totals.episodes
        return LossOutput(
            loss + self.config.nll_coef * nll, {"nll": nll.detach(), "preferred": preferred}
        )

    def _pairs(self, rollout: Rollout, seat: int) -> Iterator[Pair]:
        """Yield where this process's wrong responses of a turn part from the gold ones."""
        turn, end = rollout.turns[seat], self.config.step_end
        policy = self.policies[turn.policy]
        rewards = turn.task_rewards.tolist()
        for said, text, reward in zip(items_of(turn.tokens), rollout.gold, rewards, strict=True):
            gold = steps(policy, gold_ids(policy, text, self.max_new_tokens), end)
            parted = first_difference(gold, steps(policy, said.response_ids, end))
            if parted and reward < self.config.accept:
                before, right, wrong = parted
                prompt = [*said.prompt_ids, *before]
                yield Item.of(prompt, right), Item.of(prompt, wrong)

    def _batch(self, name: str, pairs: list[Pair]) -> PairBatch:
        policy = self.policies[name]
        pad, device = int(policy.backbone.tokenizer.pad_token_id), policy.backbone.device  # type: ignore[arg-type]
        sides = [token_batch(side, pad, device) for side in zip(*pairs, strict=True)]
        sums = [
            policy.score(side, response_hidden(policy.backbone, None, side)).ref_log_probs.sum(1)
            for side in sides
        ]
        return PairBatch.of(sides[0], rejected=sides[1], margins=sums[0] - sums[1])

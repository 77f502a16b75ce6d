"""SFT: gold answers are imitated, whatever the policy has said. The control of what needs gold."""

from __future__ import annotations

from dataclasses import replace

import torch

from agents.algorithms.configs import SFTConfig
from agents.algorithms.gold import gold_ids
from agents.algorithms.likelihood import Likelihood
from agents.algorithms.replay import Item, items_of, token_batch
from agents.types import Explored, Prepared, Rollout, TokenBatch


class SFT(Likelihood):
    """Supervised fine-tuning: min −Σ log π(gold | prompt), on the prompts that are met.

    Responses are sampled all the same: observers read them, and they are what is logged.
    """

    Config = SFTConfig
    needs_gold = True

    @torch.no_grad()
    def prepare(self, rollout: Rollout, explored: Explored | None = None) -> list[Prepared]:
        """Return the gold answers behind the prompts of each turn."""
        return [
            Prepared(scored=self.scored(turn), batch=self._gold(rollout, seat))
            for seat, turn in enumerate(rollout.turns)
        ]

    def _gold(self, rollout: Rollout, seat: int) -> TokenBatch:
        turn = rollout.turns[seat]
        policy = self.policies[turn.policy]
        nothing = replace(turn.tokens, response_mask=torch.zeros_like(turn.tokens.response_mask))
        items = [
            Item.of(asked.prompt_ids, gold_ids(policy, text, self.max_new_tokens))
            for asked, text in zip(items_of(nothing), rollout.gold, strict=True)
        ]
        pad = int(policy.backbone.tokenizer.pad_token_id)  # type: ignore[arg-type]
        asked = turn.tokens.response_mask.any(1)
        return token_batch(items, pad, policy.backbone.device).counting(asked)

"""A reward model of preferences: a sequence classifier on the body of a language model.

It maximises the likelihood of Bradley and Terry, P(a ≻ b) = σ(R(a) − R(b)), as in Christiano et al.
2017 (arXiv 1706.03741) and Barj & Sautory 2024 (arXiv 2401.07181).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from agents.judging.preferences import Pair

BATCH = 16
"""Pairs in a step."""


EPOCHS = 4


def bradley_terry(gaps: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of −y log σ(d) − (1 − y) log σ(−d).

    Args:
        gaps: (N,) d: rewards of first responses less those of second ones.
        labels: (N,) y: probability that the first is better, in [0, 1].
    """
    return nn.functional.binary_cross_entropy_with_logits(gaps, labels)


class RewardModel:
    """A classifier of two labels, the second of which is what is paid."""

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        device: torch.device,
    ):
        """Put a new head on the body of a language model.

        Raises:
            ValueError: if its architecture has no classifiers.
        """
        config = type(base.config).from_dict({**base.config.to_dict(), "architectures": None})
        config.num_labels, config.pad_token_id = 2, tokenizer.pad_token_id
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                self.model: Any = AutoModelForSequenceClassification.from_config(config)
            except ValueError as error:
                raise ValueError(
                    f"Expected a model with sequence classifiers, got {type(base).__name__}: "
                    "judge a run of another model."
                ) from error
        self.model.base_model.load_state_dict(base.base_model.state_dict())
        self.model.float().eval().to(device)  # without dropout
        self.tokenizer = tokenizer
        positions = getattr(config, "max_position_embeddings", None)
        self._context = min(int(tokenizer.model_max_length), int(positions or 10**9))

    def rewards(self, texts: Sequence[str]) -> Tensor:
        """Return (N,) the logits of the second label, differentiably."""
        columns: Any = self.tokenizer(
            list(texts), truncation=True, max_length=self._context, split_special_tokens=True,
            padding=True, padding_side="right", return_tensors="pt",
        )  # fmt: skip
        inputs = {"input_ids": columns["input_ids"], "attention_mask": columns["attention_mask"]}
        inputs = {name: ids.to(self.model.device) for name, ids in inputs.items()}
        return self.model(**inputs).logits[:, 1]

    def fit(
        self, pairs: Sequence[Pair], labels: Sequence[float], learning_rate: float, seed: int
    ) -> None:
        """Fit preferences.

        Args:
            pairs: N of them.
            labels: (N,) 1 where the first is better, 0 where the second is.
            learning_rate: of Adam, which falls to 0 along a line; > 0.
            seed: of the order.
        """
        generator = torch.Generator().manual_seed(seed)
        steps = EPOCHS * -(-len(pairs) // BATCH)
        optimizer = torch.optim.Adam(self.model.parameters(), learning_rate)
        falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        wanted = torch.tensor(labels, dtype=torch.float32, device=self.model.device)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(pairs), generator=generator).split(BATCH):
                own = [pairs[row] for row in rows.tolist()]
                texts = [pair.example.query + pair.first for pair in own]
                texts += [pair.example.query + pair.second for pair in own]
                first, second = self.rewards(texts).chunk(2)
                bradley_terry(first - second, wanted[rows.to(wanted.device)]).backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                falling.step()

    @torch.no_grad()
    def standardise(self, texts: Sequence[str]) -> None:
        """Scale the head so that rewards of these texts have a deviation of 1.

        They have no scale of their own: preferences know differences only, and those of a model
        that is sure are as large as it was trained long.
        """
        found = torch.cat([self.rewards(texts[i : i + 64]) for i in range(0, len(texts), 64)])
        head = [m for m in self.model.modules() if isinstance(m, nn.Linear)][-1]
        for parameter in head.parameters():
            parameter.div_(found.std().clamp(min=1e-6))

    def save(self, folder: Path) -> None:
        """Write a transformers folder."""
        self.model.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))

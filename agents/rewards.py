"""Rewards that need torch: any Hugging Face sequence classifier, such as `lvwerra/distilbert-imdb`.

The environment takes any callable as a reward; this is one more. It stands here and not in
`cory_env`, which loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from agents.sources import check_repository
from cory_env.types import Example, Float64Array


class ClassifierReward:
    """The raw logit of one label for `query + response`, the text that a reader sees.

    The text reaches the tokenizer as it is. What is longer than the classifier's context loses its
    end. Texts are batched by length and padded on the right under an attention mask, so that a
    score depends on its own text alone, up to the rounding of float32 sums. Code that a model
    brings along is never run.

    Args:
        name_or_path: a folder, or a name on the hub.
        positive_label: index of the label whose logit is the reward.
        batch_size: texts in one forward pass.
        device: a torch device, such as `cpu` or `cuda:0`.

    Raises:
        ValueError: if there is no such model, if it is not a trained sequence classifier, if its
            tokenizer cannot pad, or if it has no such label.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        positive_label: int = 1,
        batch_size: int = 64,
        device: str | torch.device = "cpu",
    ):
        if batch_size < 1:
            raise ValueError(f"Expected batch_size >= 1, got {batch_size}.")
        self._model, self._tokenizer = _load(str(name_or_path))
        num_labels = len(self._model.config.id2label or ())
        if not 0 <= positive_label < num_labels:
            raise ValueError(
                f"Expected positive_label in [0, {num_labels - 1}], the labels of {name_or_path} "
                f"({self._model.config.id2label}), got {positive_label}."
            )
        self._model.to(torch.device(device))  # type: ignore[arg-type]
        self._positive_label = positive_label
        self._batch_size = batch_size

    def __call__(self, examples: Sequence[Example], responses: Sequence[str]) -> Float64Array:
        """Score a batch.

        Args:
            examples: (B,) the task items; only their queries are read.
            responses: (B,) the texts that continue the queries.

        Returns:
            (B,) logits.

        Raises:
            ValueError: if there is not one response per example.
        """
        if len(examples) != len(responses):
            raise ValueError(
                "Expected one response per example, "
                f"got {len(examples)} examples and {len(responses)} responses."
            )
        pairs = zip(examples, responses, strict=True)
        return self.logits([example.query + response for example, response in pairs])

    @torch.inference_mode()
    def logits(self, texts: Sequence[str]) -> Float64Array:
        """Return the logit of the positive label of each text: (B,)."""
        scores = np.zeros(len(texts), np.float64)
        if not texts:
            return scores
        context = _context(self._model, self._tokenizer)
        columns: Any = self._tokenizer(list(texts), truncation=True, max_length=context)
        lengths = [len(ids) for ids in columns["input_ids"]]
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        for start in range(0, len(order), self._batch_size):
            places = order[start : start + self._batch_size]
            rows = {name: [column[i] for i in places] for name, column in columns.items()}
            inputs = self._tokenizer.pad(rows, return_tensors="pt")
            logits = self._model(**inputs.to(self._model.device)).logits
            scores[places] = logits[:, self._positive_label].double().cpu().numpy()
        return scores


def _load(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    check_repository("sequence classifier", name)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        architectures = config.architectures or []
        if not any(kind.endswith("ForSequenceClassification") for kind in architectures):
            # transformers would put a classifier with random weights on top of it and only warn.
            raise ValueError(f"its architecture is {', '.join(architectures) or 'unknown'}")
        tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            "Expected a sequence classifier in transformers format (a folder or a name on the "
            f"hub), got {name!r}: {error}"
        ) from error
    if report["missing_keys"]:
        raise ValueError(
            f"Expected a trained sequence classifier, got {name!r}, which lacks the weights "
            f"{sorted(report['missing_keys'])}."
        )
    if tokenizer.pad_token_id is None or model.config.pad_token_id is None:
        raise ValueError(
            f"Expected a padding token in the tokenizer and the configuration of {name!r}, "
            "got none: set pad_token and pad_token_id and save both again."
        )
    # On the right, absolute positions count from the first word without further ado.
    tokenizer.padding_side = "right"
    return model.eval().requires_grad_(False), tokenizer


def _context(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Longest input in tokens; a tokenizer that states none says some 10³⁰."""
    positions = model.config.to_dict().get("max_position_embeddings", tokenizer.model_max_length)
    return min(int(tokenizer.model_max_length), int(positions))

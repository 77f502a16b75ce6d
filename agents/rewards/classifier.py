"""Rewards that need torch: any Hugging Face sequence classifier, such as `lvwerra/distilbert-imdb`.

The environment takes any callable as a reward; this is one more. It stands here and not in
`cory_env`, which loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from agents.config.sources import check_repository
from agents.models.files import check_safetensors, why_not
from cory_env.tokenization import TransformersCodec
from cory_env.types import Example, Float64Array


class ClassifierReward:
    """The raw logit of one label for `query + response`, the text that a reader sees.

    The text reaches the tokenizer as it is; a special token that is spelled out in it stays text.
    What is longer than the classifier's context loses its end. Texts are batched by length and
    padded on the right under an attention mask, so that a score depends on its own text alone, up
    to the rounding of float32 sums. Code that a model brings along is never run.

    Args:
        name_or_path: a folder, or a name on the hub.
        positive_label: name or index of the label whose logit is the reward; None for the only one
            there is, or the second of two.
        batch_size: texts in one forward pass.
        device: a torch device, such as `cpu` or `cuda:0`.

    Raises:
        ValueError: if there is no such model, if it is not a trained sequence classifier, if its
            configuration names no padding token or more positions than it has, or if it has no such
            label.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        positive_label: int | str | None = None,
        batch_size: int = 64,
        device: str | torch.device = "cpu",
    ):
        if batch_size < 1:
            raise ValueError(f"Expected batch_size >= 1, got {batch_size}.")
        name = str(name_or_path)
        self._model, self._tokenizer = _load(name)
        labels = {int(i): str(label) for i, label in (self._model.config.id2label or {}).items()}
        self._positive_label = _find_label(labels, positive_label, name)
        self.description = (
            f"logit of label {self._positive_label} ({labels[self._positive_label]}) of {name}"
        )
        """What is paid, for people to read."""
        self._codec = TransformersCodec(self._tokenizer)  # type: ignore[arg-type]
        self._context = _context(self._model, self._tokenizer)
        _check_context(self._model, self._context, name)
        self._model.to(torch.device(device))  # type: ignore[arg-type]
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
        columns = self._encode(texts)
        lengths = [len(ids) for ids in columns["input_ids"]]
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        for start in range(0, len(order), self._batch_size):
            places = order[start : start + self._batch_size]
            rows = {name: [column[i] for i in places] for name, column in columns.items()}
            logits = self._model(**self._padded(rows)).logits
            scores[places] = logits[:, self._positive_label].double().cpu().numpy()
        return scores

    def _encode(self, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        """Return the columns of the tokenizer, where no special token has come of a text."""
        columns: Any = self._tokenizer(
            list(texts), truncation=True, max_length=self._context, split_special_tokens=True
        )
        codec, rows = self._codec, columns["input_ids"]
        room = self._context - len(codec.before) - len(codec.after)
        for place, text in enumerate(texts):
            own = rows[place][len(codec.before) : len(rows[place]) - len(codec.after)]
            if codec.is_plain(text, own):
                continue
            # A vocabulary may hold a special token as a word like any other.
            try:
                own = codec.text_ids(text)
            except ValueError:  # it has nothing else for a character
                own = [i for i in own if i not in codec.special]
            ids = [*codec.before, *own[:room], *codec.after]
            fills = {"input_ids": ids, "attention_mask": [1] * len(ids)}
            for name, column in columns.items():
                column[place] = fills.get(name, [0] * len(ids))
        return dict(columns)

    def _padded(self, rows: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, Tensor]:
        # On the right, absolute positions count from the first word without further ado; and with
        # the token that the model takes for padding, where the tokenizer's is another.
        model = self._model
        fills = {"input_ids": model.config.pad_token_id}
        return {
            name: pad_sequence(
                [torch.tensor(row, dtype=torch.long) for row in column],
                batch_first=True,
                padding_value=fills.get(name, 0),
            ).to(model.device)
            for name, column in rows.items()
        }


def _find_label(labels: Mapping[int, str], wanted: int | str | None, model: str) -> int:
    """Return the index of a label that is given by name or index."""
    if wanted is None and len(labels) <= 2:
        return len(labels) - 1
    index = wanted
    if isinstance(wanted, str):
        by_name = {label.casefold(): index for index, label in labels.items()}
        index = by_name.get(wanted.casefold(), int(wanted) if wanted.isdecimal() else None)
    if index is None or index not in labels:
        listed = ", ".join(f"{index} ({label})" for index, label in labels.items())
        got = "none" if wanted is None else repr(wanted)
        raise ValueError(
            f"Expected positive_label (--reward-label) to be one of the labels of {model}, "
            f"{listed}, got {got}."
        )
    return int(index)


def _load(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    check_repository("sequence classifier", name)
    check_safetensors(Path(name))
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        architectures = config.architectures or []
        if not any(kind.endswith("ForSequenceClassification") for kind in architectures):
            # transformers would put a classifier with random weights on top of it and only warn.
            raise ValueError(f"its architecture is {', '.join(architectures) or 'unknown'}")
        tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            name,
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            "Expected a sequence classifier in transformers format (a folder or a name on the "
            f"hub), got {name!r}: {why_not(error)}"
        ) from error
    if report["missing_keys"]:
        raise ValueError(
            f"Expected a trained sequence classifier, got {name!r}, which lacks the weights "
            f"{sorted(report['missing_keys'])}."
        )
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr, index]
    if max(tokenizer.get_vocab().values()) >= rows:
        raise ValueError(
            f"Expected a sequence classifier with a row for each token of its tokenizer, got "
            f"{name!r} with {rows} rows and the tokenizer of another model: save both again."
        )
    if model.config.pad_token_id is None:
        raise ValueError(
            f"Expected a padding token in the configuration of {name!r}, got none: set "
            "pad_token_id and save it again."
        )
    return model.eval().requires_grad_(False), tokenizer


def _context(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Longest input in tokens; a tokenizer that states none says some 10³⁰."""
    tables = _position_tables(model)
    # Absent or None where positions are relative, and under another name in the files of GPT-2.
    positions = getattr(model.config, "max_position_embeddings", None) or min(
        [table.num_embeddings for table in tables], default=None
    )
    if not positions:
        return int(tokenizer.model_max_length)
    # RoBERTa and its kin count positions from the one behind that of their padding.
    before = max([table.padding_idx + 1 for table in tables if table.padding_idx is not None] + [0])
    return min(int(tokenizer.model_max_length), int(positions) - before)


def _position_tables(model: PreTrainedModel) -> list[nn.Embedding]:
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and "position" in name.rpartition(".")[2]
    ]


@torch.inference_mode()
def _check_context(model: PreTrainedModel, context: int, name: str) -> None:
    """Score one text as long as the context: a position too many fails now, not in mid-run.

    Only where positions are looked up; there, contexts are short. Before the model is on a GPU,
    where an index out of bounds ends the process.

    Raises:
        ValueError: if it fails.
    """
    if not _position_tables(model):
        return
    token = next(i for i in range(model.config.vocab_size) if i != model.config.pad_token_id)
    try:
        model(input_ids=torch.full((1, context), token))
    except (IndexError, RuntimeError) as error:
        raise ValueError(
            f"Expected a sequence classifier that reads {context} tokens, as {name!r} says it "
            f"does, got: {str(error).splitlines()[0]}. Set model_max_length in its tokenizer."
        ) from error

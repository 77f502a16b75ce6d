"""A policy: a language model that samples responses and scores them under one distribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from agents.maths.distributions import entropy, exact_kl, sampling_log_probs
from agents.models.backbone import Backbone, token_positions
from agents.models.chat import prompt_ids
from agents.models.kernels import row_blocks, score_tokens
from agents.policies.base import CHUNK_ROW_TOKENS, CHUNK_TOKENS, Generated, Policy, Scores
from agents.policies.decoding import Pick, can_record, decode_recorded, decode_stepwise
from agents.policies.prefixes import Prefixes, check_prefixes, tokens_left
from agents.policies.sampling import draw, draw_uniforms
from agents.policies.scored import Normalise, score_texts
from agents.types import Generation, TokenBatch
from cory_env.tokenization import TransformersCodec


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMPolicy:
    """One language model that answers: one that is trained, by its adapter, or the reference."""

    name: str
    """Of the policy; one that learns has the adapter of this name."""
    backbone: Backbone
    learns: bool = True
    """False for the reference: the model without any adapter."""
    temperature: float = 1.0
    """> 0."""
    top_p: float = 1.0
    """In (0, 1]."""
    label: str = ""
    """What it reads before every prompt, such as what kind of answer is wanted."""

    @property
    def adapter(self) -> str | None:
        """What the backbone calls its weights; None for those of the reference."""
        return self.name if self.learns else None

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what the policy trains, by name."""
        assert self.learns, f"{self.name} does not learn"
        return self.backbone.parameters(self.name)

    def labelled(self, label: str) -> LLMPolicy:
        """Return the same policy with another label before its prompts."""
        return replace(self, label=label)

    def encode(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        prefixes: Prefixes | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokenize prompts to ids and mask, both (B, L), padded on the left.

        Chat models read a prompt as a user's message. The policy's label comes before each.

        Args:
            prompts: B texts.
            max_new_tokens: T, the longest response.
            prefixes: (B,) first tokens of the responses, which come behind the prompts.

        Raises:
            ValueError: if a prompt has no token, or does not leave room for the response; or if
                there is nothing to say behind a prefix.
        """
        backbone = self.backbone
        rows = prompt_ids(backbone.tokenizer, [self.label + prompt for prompt in prompts])
        if not rows or not all(rows):
            raise ValueError(f"Expected prompts of at least one token, got {list(prompts)[:3]!r}.")
        longest = max(range(len(rows)), key=lambda row: len(rows[row]))
        if len(rows[longest]) + max_new_tokens > backbone.context:
            raise ValueError(
                _too_long(prompts[longest], len(rows[longest]), max_new_tokens, backbone.context)
            )
        if prefixes is not None:
            check_prefixes(prefixes, len(rows), max_new_tokens, backbone.stop_ids.tolist())
            rows = [[*row, *prefix] for row, prefix in zip(rows, prefixes, strict=True)]
        batch = backbone.tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        ids, mask = batch["input_ids"], batch["attention_mask"].bool()  # type: ignore[union-attr]
        if int(ids.max()) >= backbone.rows:
            raise ValueError(_unknown_token(backbone, int(ids.max())))
        return ids.long().to(backbone.device), mask.to(backbone.device)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        generator: torch.Generator | None = None,
        uniforms: Tensor | None = None,
        prefixes: Prefixes | None = None,
        greedy: bool = False,
    ) -> Generated:
        """Sample one response to each prompt, or the rest of one.

        Args:
            prompts: B texts.
            max_new_tokens: T, the longest response, its end token included.
            generator: source of randomness, on the CPU; a freshly seeded one if None.
            uniforms: (B, T) from `draw_uniforms` instead of a generator; its first column is for
                the first token that is sampled.
            prefixes: (B,) first tokens of the responses, which count among the T; each shorter
                than T and without an end token. The rest is sampled behind prompt and prefix.
            greedy: take the most probable token instead of sampling.

        Returns:
            B texts without end tokens, and their tokens with the log-probs they were sampled with:
            what is new, behind the prompts with their prefixes.
        """
        if uniforms is None:
            uniforms = draw_uniforms(len(prompts), max_new_tokens, generator)
        if len(uniforms) != len(prompts) or uniforms.shape[1] < max_new_tokens:
            raise ValueError(
                f"Expected uniforms for {len(prompts)} prompts and {max_new_tokens} tokens, got "
                f"{tuple(uniforms.shape)}: take those of draw_uniforms."
            )
        backbone, tokenizer = self.backbone, self.backbone.tokenizer
        uniforms = uniforms[:, :max_new_tokens].to(backbone.device)
        given_ids, given_mask = self.encode(prompts, max_new_tokens, prefixes)
        limits = torch.tensor(tokens_left(prefixes, len(prompts), max_new_tokens))
        decode = decode_recorded if can_record(backbone, max_new_tokens) else decode_stepwise
        tokens, chosen, kept = decode(
            *(backbone, self.adapter, given_ids, given_mask, uniforms, self._pick(greedy)),
            limits=limits.to(backbone.device),
        )
        generation = Generation(
            prompt_ids=given_ids,
            prompt_mask=given_mask,
            response_ids=tokens.masked_fill(~kept, tokenizer.pad_token_id),  # type: ignore[arg-type]
            response_mask=kept,
            sampled_log_probs=chosen * kept,
        )
        return Generated(response_texts(backbone, generation), generation)

    def padded(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        ids: Sequence[Sequence[int]],
        log_probs: Sequence[Sequence[float]],
    ) -> Generated:
        """Return responses that somebody else has sampled as this policy.

        Args:
            prompt_ids: (B, L) padded on the left.
            prompt_mask: (B, L) bool.
            ids: B responses, end tokens included.
            log_probs: of their tokens, as they were sampled.
        """
        device, pad = self.backbone.device, self.backbone.tokenizer.pad_token_id
        width = max(map(len, ids))
        lengths = torch.tensor([len(row) for row in ids])
        rows = [[*row, *[pad] * (width - len(row))] for row in ids]
        sampled = [[*row, *[0.0] * (width - len(row))] for row in log_probs]
        generation = Generation(
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask,
            response_ids=torch.tensor(rows).to(device),
            response_mask=(torch.arange(width)[None] < lengths[:, None]).to(device),
            sampled_log_probs=torch.tensor(sampled, dtype=torch.float32).to(device),
        )
        return Generated(response_texts(self.backbone, generation), generation)

    def score(self, tokens: TokenBatch, ref_hidden: Tensor) -> Scores:
        """Score responses under the sampling distribution, differentiably.

        Memory for distributions is `CHUNK_TOKENS` × V whatever the batch: chunks are recomputed in
        the backward pass.

        Args:
            tokens: B responses.
            ref_hidden: (B, T, D) from `response_hidden` of the reference.
        """
        hidden = response_hidden(self.backbone, self.adapter, tokens)
        parts = _in_chunks(self._score_chunk, tokens, hidden, ref_hidden)
        return Scores(*parts, hidden=hidden)

    def log_probs(self, tokens: TokenBatch) -> Tensor:
        """Return the log-probs (B, T) of responses alone, differentiably; 0 where masked.

        They are those of `score`, without what takes a reference.
        """
        hidden = response_hidden(self.backbone, self.adapter, tokens)
        return _in_chunks(self._log_prob_chunk, tokens, hidden)[0]

    def score_texts(
        self,
        prompts: Sequence[str],
        candidates: Sequence[str],
        *,
        normalise: Normalise = "sum",
    ) -> Tensor:
        """Return what the policy thinks of each of C given texts behind each of B prompts.

        See `agents.policies.scored`: (B, C) float32 log-probs over the whole vocabulary, divided as
        `normalise` says, differentiably.
        """
        return score_texts(self, prompts, candidates, normalise=normalise, label=self.label)

    def _log_prob_chunk(self, hidden: Tensor, ids: Tensor) -> tuple[Tensor]:
        log_probs = self._log_softmax(self.backbone.logits(self.adapter, hidden), ids)
        return (log_probs.gather(-1, ids[:, None])[:, 0],)

    def _score_chunk(
        self, hidden: Tensor, ref_hidden: Tensor, ids: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits = self.backbone.logits(self.adapter, hidden)
        with torch.no_grad():
            ref_logits = self.backbone.logits(None, ref_hidden)
        if self.top_p == 1.0:
            return score_tokens(logits, ref_logits, ids, self.temperature)
        log_probs = self._log_softmax(logits, ids)
        # The reference is compared at the same temperature, over its whole vocabulary.
        ref_log_probs = sampling_log_probs(ref_logits, temperature=self.temperature)
        chosen, ref_chosen = (p.gather(-1, ids[:, None])[:, 0] for p in (log_probs, ref_log_probs))
        return chosen, entropy(log_probs), exact_kl(log_probs, ref_log_probs), ref_chosen

    def divergence(self, tokens: TokenBatch, teacher: Policy, read: TokenBatch) -> Tensor:
        """Return KL(teacher ‖ policy) over the whole vocabulary, with the policy's gradient alone.

        Args:
            tokens: B responses behind what the policy reads.
            teacher: of the same base model; held fixed.
            read: the same responses behind what the teacher has read.

        Returns:
            (B, T) nats, 0 where masked.
        """
        with torch.no_grad():
            told = response_hidden(teacher.backbone, teacher.adapter, read)
        hidden = response_hidden(self.backbone, self.adapter, tokens)
        flat = [t.flatten(0, 1).split(CHUNK_TOKENS) for t in (hidden, told)]
        chunks = [
            checkpoint(self._diverge_chunk, *parts, teacher.adapter, use_reentrant=False)
            for parts in zip(*flat, strict=True)
        ]
        return torch.cat(chunks).view(tokens.response_ids.shape) * tokens.response_mask

    def _diverge_chunk(self, hidden: Tensor, told: Tensor, teacher: str | None) -> Tensor:
        with torch.no_grad():
            taught = self.backbone.logits(teacher, told)
        logits = self.backbone.logits(self.adapter, hidden)
        # Over the whole vocabulary, as the reference is: outside a nucleus it would be infinite.
        parts = (sampling_log_probs(x, temperature=self.temperature) for x in (taught, logits))
        return exact_kl(*parts)

    def _pick(self, greedy: bool) -> Pick:
        def pick(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
            tokens = logits.new_empty(len(logits), dtype=torch.long)
            chosen = logits.new_empty(len(logits), dtype=torch.float32)
            for rows in row_blocks(logits):
                log_probs = self._log_softmax(logits[rows])
                tokens[rows] = log_probs.argmax(-1) if greedy else draw(log_probs, uniforms[rows])
                chosen[rows] = log_probs.gather(-1, tokens[rows, None])[:, 0]
            return tokens, chosen

        return pick

    def _log_softmax(self, logits: Tensor, kept_ids: Tensor | None = None) -> Tensor:
        return sampling_log_probs(
            logits, temperature=self.temperature, top_p=self.top_p, kept_ids=kept_ids
        )

    @torch.no_grad()
    def act(
        self, observation: Mapping[str, np.ndarray], generator: torch.Generator
    ) -> tuple[int, float]:
        """Play one token of the AEC environment.

        Args:
            observation: of an environment with this policy's tokenizer, at the token level.
            generator: source of randomness, on the CPU.

        Returns:
            The token and its log-prob under the distribution it was drawn from: that of `generate`.
        """
        kept = observation["attention_mask"].astype(bool)
        ids = torch.from_numpy(observation["observation"][kept].astype(np.int64))[None]
        ids = ids.to(self.backbone.device)
        mask = torch.ones_like(ids, dtype=torch.bool)
        hidden = self.backbone.hidden(self.adapter, ids, mask, token_positions(mask))[:, -1]
        log_probs = self._log_softmax(self.backbone.logits(self.adapter, hidden))
        token = draw(log_probs, draw_uniforms(1, 1, generator)[:, 0].to(log_probs.device))[0]
        return int(token), float(log_probs[0, token])


def _too_long(prompt: str, length: int, max_new_tokens: int, context: int) -> str:
    room = context - length
    lower = f"lower max_new_tokens to {room}, or " if room > 0 else ""
    return (
        f"Expected a prompt and max_new_tokens={max_new_tokens} to fit the model's context of "
        f"{context} tokens, got a prompt of {length} tokens, {prompt[:60]!r}…: {lower}shorten the "
        "query."
    )


def _unknown_token(backbone: Backbone, token: int) -> str:
    return (
        f"Expected prompts of tokens that the model has a row for, {backbone.rows} in all, got "
        f"{backbone.tokenizer.convert_ids_to_tokens(token)!r} with id {token}: leave it out of the "
        "query, or resize_token_embeddings(len(tokenizer)) and save the model again."
    )


def _in_chunks(
    score: Callable[..., tuple[Tensor, ...]], tokens: TokenBatch, *hidden: Tensor
) -> list[Tensor]:
    """Return what `score` says of (N, D) hidden states and (N,) ids, as (B, T), 0 where masked."""
    flat = [t.flatten(0, 1) for t in (*hidden, tokens.response_ids)]
    chunks: list[tuple[Tensor, ...]] = []
    for start in range(0, len(flat[0]), CHUNK_TOKENS):
        parts = [t[start : start + CHUNK_TOKENS] for t in flat]
        if torch.is_grad_enabled() and len(flat[0]) > CHUNK_TOKENS:
            chunks.append(checkpoint(score, *parts, use_reentrant=False))  # type: ignore[arg-type]
        else:
            chunks.append(score(*parts))
    shape, mask = tokens.response_ids.shape, tokens.response_mask
    return [torch.cat(chunk).view(shape) * mask for chunk in zip(*chunks, strict=True)]


def response_hidden(backbone: Backbone, name: str | None, tokens: TokenBatch) -> Tensor:
    """Return the hidden states (B, T, D) from which the response tokens are predicted."""
    ids = torch.cat([tokens.prompt_ids, tokens.response_ids[:, :-1]], dim=1)
    mask = torch.cat([tokens.prompt_mask, tokens.response_mask[:, :-1]], dim=1)
    start = tokens.prompt_ids.shape[1] - 1
    # Layers that are spread over processes must be gathered equally often by all of them.
    whole = torch.is_grad_enabled() or backbone.sharding is not None
    rows = len(ids) if whole else max(1, CHUNK_ROW_TOKENS // ids.shape[1])
    parts = zip(ids.split(rows), mask.split(rows), strict=True)
    hidden = [backbone.hidden(name, i, m, token_positions(m))[:, start:] for i, m in parts]
    return torch.cat(hidden)


def response_texts(backbone: Backbone, tokens: TokenBatch) -> list[str]:
    """Return what the responses add to their prompts' texts: no end token, no padding."""
    codec = TransformersCodec(backbone.tokenizer)  # type: ignore[arg-type]
    rows = zip(tokens.response_ids.tolist(), tokens.response_mask.tolist(), strict=True)
    kept = ([i for i, keep in zip(ids, mask, strict=True) if keep] for ids, mask in rows)
    return [codec.decode(ids, begin=False) for ids in kept]

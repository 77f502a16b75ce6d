"""Pre-train the embedded language model, a 4.5M-parameter Llama, on film reviews and word problems.

    python -m recipes.language_model train --data DIR/imdb      # an hour or more; resumes by itself
    python -m recipes.language_model evaluate --data DIR/imdb   # bits per byte on the test reviews
    python -m recipes.language_model sample                     # what it writes
    python -m recipes.language_model train --data DIR/imdb --layers 9 --start agents/assets/model \
        --tokens 4_000_000 --work build/lm9 --out build/model9  # one of twice the size; not shipped

`train` first learns the tokenizer (byte-level BPE, digits one by one), then the model, and writes
the transformers folder `agents/assets/model` at the end. Matrices are trained by Muon (Jordan et
al. 2024, https://kellerjordan.github.io/posts/muon/), embeddings and norms by AdamW; the learning
rate is constant, then falls linearly to 0 over the last 40 % of the tokens, so that a run can be
made shorter or longer while it runs (`--tokens`). Arithmetic is in bf16, master weights in float32.
Window order depends on seed and step only: an interrupted run goes on where it was.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from agents.records.checkpoint import optimizer_tensors, restore_optimizer
from cory_env import word_problems
from recipes.reviews import pretraining_texts, read_reviews

ASSETS = Path(__file__).parent.parent / "agents" / "assets" / "model"
END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 4096
CONTEXT = 256
REVIEW_SHARE = 0.85
WORD_PROBLEM_TOKENS = 4_000_000
DECAY_SHARE = 0.4
MUON_RATE, ADAM_RATE = 0.02, 0.003


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train the tokenizer and the model."""

    data: Path
    """Folder of the review files."""
    work: Path = Path("build/lm")
    """Folder for the token cache, the checkpoint and the log."""
    out: Path = ASSETS
    """Where the finished model goes."""
    tokens: int = 24_000_000
    """Training tokens in all."""
    windows: int = 32
    """Windows of 256 tokens in a batch."""
    layers: int = 4
    """Of the network."""
    start: Path | None = None
    """A finished model with no more layers, which the new one equals at first; None to begin with
    random weights and a new tokenizer."""
    seed: int = 0
    save_every: int = 100
    """Steps between two checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Print bits per byte on the test reviews and accuracy on fresh word problems."""

    data: Path
    model: Path = ASSETS
    reviews: int = 25_000
    """How many test reviews, evenly spaced: the data set lists one class after the other."""
    problems: int = 500


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Print sampled continuations."""

    model: Path = ASSETS
    prompts: tuple[str, ...] = (
        "This film",
        "I went to see",
        "The acting",
        "After an hour of",
        "My wife and I",
    )
    tokens: int = 60
    seed: int = 0


# ---------------------------------------------------------------- tokenizer and data


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE: texts begin with the end-of-text token, digits stand alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    problems = islice(word_problems.pretraining_texts(np.random.default_rng(0)), len(texts) // 4)
    tokenizer.train_from_iterator(
        [*texts, *problems],
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    # The model has seen every document begin with this token: a prompt must begin with it, too.
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def pack(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> np.ndarray:
    """Concatenate documents, each led by the end-of-text token: (tokens,) uint16."""
    parts = [
        np.array(ids, np.uint16)
        for start in range(0, len(texts), 1000)
        for ids in tokenizer(texts[start : start + 1000])["input_ids"]  # type: ignore[union-attr]
    ]
    return np.concatenate(parts)


def prepare_data(args: Train) -> tuple[PreTrainedTokenizerFast, np.ndarray, np.ndarray]:
    """Return the tokenizer and two token streams (reviews, word problems), cached on disk."""
    caches = args.work / "reviews.npy", args.work / "problems.npy"
    if not caches[1].exists():
        texts = pretraining_texts(args.data)
        rng = np.random.default_rng(args.seed)
        texts = [texts[i] for i in rng.permutation(len(texts))]
        tokenizer = (
            PreTrainedTokenizerFast.from_pretrained(args.start)
            if args.start
            else train_tokenizer(texts[:30_000])
        )
        tokenizer.save_pretrained(args.work / "tokenizer")
        np.save(caches[0], pack(tokenizer, texts))
        problems = list(islice(word_problems.pretraining_texts(rng), WORD_PROBLEM_TOKENS // 55))
        np.save(caches[1], pack(tokenizer, problems))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.work / "tokenizer")
    return tokenizer, np.load(caches[0]), np.load(caches[1])


def batch_at(
    step: int, args: Train, reviews: np.ndarray, problems: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets (B, L) of one step: a function of seed and step alone."""
    num_problems = round(args.windows * (1 - REVIEW_SHARE))
    rows = []
    for stream, count in ((reviews, args.windows - num_problems), (problems, num_problems)):
        size = (len(stream) - 1) // CONTEXT
        for i in range(step * count, (step + 1) * count):
            epoch, place = divmod(i, size)
            # Each epoch has its own order and its own offset of the windows.
            rng = np.random.default_rng((args.seed, epoch))
            offset = int(rng.integers(CONTEXT)) if epoch else 0
            start = int(_permutation(size, args.seed, epoch)[place]) * CONTEXT + offset
            start = min(start, len(stream) - CONTEXT - 1)
            rows.append(stream[start : start + CONTEXT + 1])
    window = torch.from_numpy(np.stack(rows).astype(np.int64))
    return window[:, :-1], window[:, 1:]


_permutations: dict[tuple[int, int, int], np.ndarray] = {}


def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    key = size, seed, epoch
    if key not in _permutations:
        _permutations[key] = np.random.default_rng((seed, epoch, 1)).permutation(size)
    return _permutations[key]


# ---------------------------------------------------------------- training


class LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ weight.T`, chunked so that the logits stay in the cache.

    The gradient is computed in the forward pass, as in Liger Kernel (arXiv 2410.10989).
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int = 1024) -> Tensor:  # type: ignore[override]
        """Take hidden (N, D), weight (V, D) and targets (N,); return the mean loss in nats."""
        count = len(targets)
        total = torch.zeros(())
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape)
        for start in range(0, count, chunk):
            rows, target = hidden[start : start + chunk], targets[start : start + chunk, None]
            logits = (rows @ weight.t()).float()
            norm = logits.logsumexp(1, keepdim=True)
            total += (norm - logits.gather(1, target)).sum()
            grad = (
                logits.sub_(norm)
                .exp_()
                .scatter_add_(1, target, torch.full(target.shape, -1.0))
                .to(hidden.dtype)
            )
            grad_hidden[start : start + chunk] = grad @ weight
            grad_weight += grad.t() @ rows
        ctx.save_for_backward(grad_hidden / count, grad_weight / count)
        return total / count

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        """Scale the stored gradients."""
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad, (grad_weight * grad).to(grad_hidden.dtype), None, None


def build_model(end_of_text: int, layers: int) -> LlamaForCausalLM:
    """Build the untrained network in float32."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
    )
    return LlamaForCausalLM(config)


@torch.no_grad()
def grow(model: LlamaForCausalLM, start: LlamaForCausalLM) -> None:
    """Make a deeper model compute what a finished one does.

    The finished layers are spread out evenly; those between them add nothing as long as their last
    matrices are 0, and learn from there (as in Chen et al. 2016, Net2Net, arXiv 1511.05641).

    Raises:
        ValueError: if it is not as deep.
    """
    if len(model.model.layers) < len(start.model.layers):
        raise ValueError(
            f"Expected at least the {len(start.model.layers)} layers of the start, got "
            f"{len(model.model.layers)}: pass more --layers."
        )
    model.model.embed_tokens.load_state_dict(start.model.embed_tokens.state_dict())
    model.model.norm.load_state_dict(start.model.norm.state_dict())
    layers, old = model.model.layers, start.model.layers
    places = {i * len(layers) // len(old): layer for i, layer in enumerate(old)}
    for i, layer in enumerate(layers):
        if i in places:
            layer.load_state_dict(places[i].state_dict())
        else:
            layer.self_attn.o_proj.weight.zero_()  # type: ignore[union-attr, operator]
            layer.mlp.down_proj.weight.zero_()  # type: ignore[union-attr, operator]


def rate_at(step: int, steps: int) -> float:
    """Learning-rate factor in [0, 1]: warm-up, constant, linear to 0 in the last `DECAY_SHARE`."""
    return min(1.0, (step + 1) / 50, (steps - step) / (DECAY_SHARE * steps))


class Trainer:
    """Float32 master weights, their bf16 copy that computes, and two optimisers."""

    def __init__(self, end_of_text: int, args: Train):
        torch.manual_seed(args.seed)
        self.master = build_model(end_of_text, args.layers)
        if args.start:
            grow(self.master, LlamaForCausalLM.from_pretrained(args.start, dtype=torch.float32))
        self.copy = build_model(end_of_text, args.layers).bfloat16()
        self.trunk = torch.compile(self.copy.model)
        matrices = [
            p for name, p in self.master.named_parameters() if p.ndim == 2 and "embed" not in name
        ]
        others = [p for name, p in self.master.named_parameters() if p.ndim != 2 or "embed" in name]
        self.optimizers = (
            torch.optim.Muon(
                matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.01, adjust_lr_fn="original"
            ),
            torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0),
        )
        self._refresh_copy()

    @torch.no_grad()
    def _refresh_copy(self) -> None:
        for copied, master in zip(self.copy.parameters(), self.master.parameters(), strict=True):
            copied.copy_(master)

    def step(self, inputs: Tensor, targets: Tensor, rate: float) -> float:
        """Update once and return the loss in nats per token."""
        hidden = self.trunk(input_ids=inputs, use_cache=False).last_hidden_state
        loss = LinearCrossEntropy.apply(
            hidden.flatten(0, 1), self.copy.lm_head.weight, targets.flatten()
        )
        loss.backward()
        for copied, master in zip(self.copy.parameters(), self.master.parameters(), strict=True):
            assert copied.grad is not None
            master.grad, copied.grad = copied.grad.float(), None
        nn.utils.clip_grad_norm_(self.master.parameters(), 1.0)
        for optimizer, peak in zip(self.optimizers, (MUON_RATE, ADAM_RATE), strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate
            optimizer.step()
        self._refresh_copy()
        return float(loss)

    def save(self, folder: Path, step: int) -> None:
        """Write one checkpoint file whole, or not at all."""
        tensors = {f"model/{name}": p.detach() for name, p in self.master.named_parameters()}
        for i, optimizer in enumerate(self.optimizers):
            tensors |= optimizer_tensors(f"optimizer/{i}", optimizer)
        temporary = folder / "checkpoint.tmp"
        save_file(
            {k: v.contiguous() for k, v in tensors.items()}, temporary, metadata={"step": str(step)}
        )
        os.replace(temporary, folder / "checkpoint.safetensors")
        (folder / "step").write_text(str(step))

    def load(self, folder: Path) -> int:
        """Take up the checkpoint, if there is one, and return the number of steps done."""
        path = folder / "checkpoint.safetensors"
        if not path.exists():
            return 0
        tensors = load_file(path)
        with torch.no_grad():
            for name, parameter in self.master.named_parameters():
                parameter.copy_(tensors[f"model/{name}"])
        for i, optimizer in enumerate(self.optimizers):
            restore_optimizer(f"optimizer/{i}", optimizer, tensors, lambda _, whole: whole)
        self._refresh_copy()
        return int((folder / "step").read_text())


def train(args: Train) -> None:
    """Train from the last checkpoint to the end and write the model.

    Raises:
        ValueError: if the model would be written over the one that it begins as.
    """
    if args.start and args.start.resolve() == args.out.resolve():
        raise ValueError(f"Expected another folder than {args.start} to write to: pass --out.")
    args.work.mkdir(parents=True, exist_ok=True)
    tokenizer, reviews, problems = prepare_data(args)
    print(f"{len(reviews):,} review tokens, {len(problems):,} word problem tokens", flush=True)
    trainer = Trainer(tokenizer.eos_token_id, args)  # type: ignore[arg-type]
    first = trainer.load(args.work)
    per_step = args.windows * CONTEXT
    steps = args.tokens // per_step
    begun, losses = time.perf_counter(), []
    with open(args.work / "log.jsonl", "a", encoding="utf-8") as log:
        for step in range(first, steps):
            losses.append(
                trainer.step(*batch_at(step, args, reviews, problems), rate_at(step, steps))
            )
            if step % 20 == 19:
                speed = (step + 1 - first) * per_step / (time.perf_counter() - begun)
                row = {
                    "step": step + 1,
                    "loss": round(sum(losses) / len(losses), 4),
                    "tokens_per_second": round(speed),
                }
                losses = []
                print(
                    f"{row['step']}/{steps} {row['loss']:.4f} nats/token {speed:,.0f} tokens/s",
                    flush=True,
                )
                log.write(json.dumps(row) + "\n")
                log.flush()
            if (step + 1) % args.save_every == 0 or step + 1 == steps:
                trainer.save(args.work, step + 1)
    export(trainer.master, tokenizer, args.out)


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write a transformers folder with weights in bf16."""
    out.mkdir(parents=True, exist_ok=True)
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"{out}: {sum(f.stat().st_size for f in out.iterdir()) / 1e6:.1f} MB")


# ---------------------------------------------------------------- looking at the result


def load(folder: Path) -> tuple[PreTrainedTokenizerFast, Any]:
    """Load a finished model for evaluation, in bf16."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return PreTrainedTokenizerFast.from_pretrained(folder), model.eval()


def review_windows(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Iterator[np.ndarray]:
    """Cut reviews into windows of `CONTEXT` + 1 tokens that overlap by one token."""
    for text in texts:
        ids = np.array([*tokenizer(text)["input_ids"], tokenizer.eos_token_id])  # type: ignore[misc]
        for start in range(0, len(ids) - 1, CONTEXT):
            yield ids[start : start + CONTEXT + 1]


@torch.inference_mode()
def bits_per_byte(tokenizer: PreTrainedTokenizerFast, model: Any, texts: list[str]) -> float:
    """Return the code length of whole reviews, their ends included, in bits per UTF-8 byte."""
    windows = sorted(review_windows(tokenizer, texts), key=len)
    nats = 0.0
    for start in range(0, len(windows), 32):
        group = windows[start : start + 32]
        width = max(map(len, group))
        ids = np.stack([np.pad(w, (0, width - len(w))) for w in group])
        kept = np.stack([np.arange(width - 1) < len(w) - 1 for w in group])
        inputs, targets = torch.from_numpy(ids[:, :-1]), torch.from_numpy(ids[:, 1:])
        logits = model(input_ids=inputs).logits.float()
        predicted = logits[torch.from_numpy(kept)]
        losses = nn.functional.cross_entropy(
            predicted, targets[torch.from_numpy(kept)], reduction="none"
        )
        nats += float(losses.double().sum())
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


@torch.inference_mode()
def solved(tokenizer: PreTrainedTokenizerFast, model: Any, difficulty: int, count: int) -> float:
    """Return the share of fresh word problems whose sampled answer ends in the right number."""
    rng = np.random.default_rng(2**32 + difficulty)
    problems = [word_problems.word_problem(rng, difficulty) for _ in range(count)]
    inputs = tokenizer(
        [f"Question: {p.query} Answer:" for p in problems], padding=True, return_tensors="pt"
    )
    torch.manual_seed(0)
    ids = model.generate(
        inputs.input_ids,
        attention_mask=inputs.attention_mask,
        max_new_tokens=48,
        do_sample=True,
        top_k=0,
    )
    answers = tokenizer.batch_decode(ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    right = [
        answer.partition("####")[2].split()[:1] == (p.reference or "").partition("####")[2].split()
        for answer, p in zip(answers, problems, strict=True)
    ]
    return sum(right) / count


def evaluate(args: Evaluate) -> None:
    """Print the figures of the model card."""
    tokenizer, model = load(args.model)
    reviews = read_reviews(args.data, "test")
    texts = [review.text for review in reviews[:: max(1, len(reviews) // args.reviews)]]
    bits = bits_per_byte(tokenizer, model, texts)
    print(f"bits per byte on {len(texts):,} test reviews: {bits:.4f}")
    for difficulty in word_problems.DIFFICULTIES:
        share = solved(tokenizer, model, difficulty, args.problems)
        print(f"word problems of {difficulty} step(s), sampled: {share:.1%} of {args.problems}")


@torch.inference_mode()
def sample(args: Sample) -> None:
    """Print one continuation per prompt."""
    tokenizer, model = load(args.model)
    torch.manual_seed(args.seed)
    for prompt in args.prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=args.tokens, do_sample=True, top_k=0)
        print("-", tokenizer.decode(ids[0], skip_special_tokens=True))


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
)

if __name__ == "__main__":
    match tyro.cli(Command, description=__doc__):  # type: ignore[arg-type]
        case Train() as chosen:
            train(chosen)
        case Evaluate() as chosen:
            evaluate(chosen)
        case Sample() as chosen:
            sample(chosen)

"""The models of a run: one base with named LoRA adapters, or one full copy per policy.

A backbone answers for every policy and for the reference model, whose name is None. With LoRA the
reference is the base with all adapters off; with full fine-tuning it is a frozen copy.
`use_adapter` is the only place that switches adapters.

Nothing here knows an architecture: hidden states come from the body of a model, logits from the
model's own forward pass over them, and `check_pieces` refuses a model that does not fit.
"""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from agents.gguf import gguf_folder, is_gguf
from agents.kernels import GrowingLayer, speed_up, speed_up_adapters
from agents.model_files import check_safetensors, why_not
from agents.models import NAMED_MODELS
from agents.precision import MasterWeights, cast_parameters
from agents.sharding import Sharding, whole_tensors
from agents.sources import check_repository

EMBEDDED_PARTS = ("agents", "assets", "model")
EMBEDDED_MODEL = Path(__file__).parent.parent.joinpath(*EMBEDDED_PARTS)

AdapterKind = Literal["lora", "dora", "full"]
DType = Literal["auto", "float32", "bfloat16"]
Quantization = Literal["none", "8bit", "4bit"]


class Backbone(ABC):
    """The models of a run, by policy name."""

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        sharding: Sharding | None = None,
    ):
        self.base = base
        self.tokenizer = tokenizer
        self.device = device
        expect_rows_for_tokens(base, tokenizer)
        self.stop_ids = torch.tensor(_stop_ids(base, tokenizer), device=device)
        """(S,) tokens that end a response; chat models have several."""
        self.tokenless_ids = torch.tensor(_tokenless_ids(base, tokenizer), device=device)
        """(K,) int64 rows of the head that stand for no token; they have probability 0."""
        self.sharding = sharding
        self.takes_wide_mask = False
        """Whether a mask of its own for each new token is understood; only asked on a GPU."""
        self._running: str | None = None

    @abstractmethod
    def use_adapter(self, name: str | None) -> Any:
        """Return a context manager that yields a policy's causal LM, or the reference's (None)."""

    @abstractmethod
    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Return what a policy trains, by name; all float32."""

    @abstractmethod
    def save_pretrained(self, name: str, folder: Path, *, writes: bool = True) -> None:
        """Write a folder that transformers and peft load alone.

        Where layers are spread over processes, all must call it; one of them writes.
        """

    @property
    def config(self) -> Any:
        """Return the transformers configuration of the language model."""
        return self.base.config.get_text_config(decoder=True)

    def anybody(self, alive: Tensor) -> bool:
        """Return whether a response (B,) bool goes on, so that one more token is needed.

        Processes that gather layers from each other must run them equally often.
        """
        goes_on = bool(alive.any())
        return self.sharding.world.any(goes_on) if self.sharding else goes_on

    @property
    def quantized(self) -> bool:
        """Return whether the weights of the base are 8 or 4 bits wide."""
        return _is_quantized(self.base)

    @property
    def rows(self) -> int:
        """Return how many tokens the model can read: ids are below this."""
        return _rows(self.base)

    @property
    def context(self) -> int:
        """Longest sequence that the model can read, in tokens; some 10³⁰ if nothing limits it."""
        # Absent where positions are relative, and under another name in the files of GPT-2.
        positions = getattr(self.config, "max_position_embeddings", None)
        return int(positions or self.tokenizer.model_max_length)

    def new_cache(self) -> DynamicCache:
        """Return an empty key-value cache, with sliding windows where the model has them."""
        cache = DynamicCache(config=self.config)
        cache.layers = [
            GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
        ]
        return cache

    def hidden(
        self,
        name: str | None,
        ids: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: Any = None,
    ) -> Tensor:
        """Run the network up to its last hidden states.

        Args:
            name: policy, or None for the reference.
            ids: (B, n) new tokens.
            mask: (B, m + n) bool over the m cached and the n new tokens; or (B, 1, n, K) bool:
                which of the K places of a fixed cache a token reads (see `takes_wide_mask`).
            positions: (B, n) position of each new token in its own text, not counting padding.
            cache: key-value cache of the m tokens before, filled in place; None for none.

        Returns:
            (B, n, D) in the dtype of the network.
        """
        self._running = name
        with self.use_adapter(name) as model:
            return model.base_model(
                input_ids=ids,
                attention_mask=mask if mask.dim() == 4 else mask.long(),
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
            ).last_hidden_state

    def logits(self, name: str | None, hidden: Tensor) -> Tensor:
        """Return next-token logits (..., V) for hidden states (..., D).

        Vocabularies are padded to round numbers: rows without a token get -inf here, the one place
        that sampling, scoring, KL, entropy and the reference have in common.
        """
        logits = self.head_logits(name, hidden)
        if not len(self.tokenless_ids):
            return logits
        # In place where no operation can have kept what it returned for its gradient.
        fill = logits.index_fill if logits.requires_grad else logits.index_fill_
        return fill(-1, self.tokenless_ids, -torch.inf)

    def head_logits(self, name: str | None, hidden: Tensor) -> Tensor:
        """Return what the model's head says (..., V), of rows without a token as well."""
        with self.use_adapter(name) as model:
            dtype = model.get_output_embeddings().weight.dtype
            states = hidden.to(dtype).reshape(1, -1, hidden.shape[-1])
            logits = _with_states(model, states)(inputs_embeds=states).logits
            return logits.view(*hidden.shape[:-1], -1)

    def _checkpoint_layers(self, model: nn.Module) -> None:
        """Recompute a model's layers in the backward pass instead of keeping what they compute.

        transformers does so in training mode only, which turns dropout on.
        """
        layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers:
            raise ValueError(
                "Expected a model whose layers can be recomputed with gradient_checkpointing, got "
                f"{type(self.base).__name__}: pass --no-gradient-checkpointing."
            )
        for layer in layers:
            layer.forward = partial(self._run_layer, layer.forward)

    def _run_layer(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # By the time of the backward pass another policy may be the active one.
        run = partial(self._run_under, self._running, forward)
        return checkpoint(run, *args, use_reentrant=False, **kwargs)

    def _run_under(
        self, name: str | None, forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        with self.use_adapter(name):
            return forward(*args, **kwargs)


class _OnlyStates(BaseModelOutput):
    """What the body of a model returns, with None for all but the last hidden states."""

    def __getattr__(self, name: str) -> None:
        return None


class _NoBody(nn.Module):
    """A body that has computed its last hidden states already."""

    def __init__(self, states: Tensor):
        super().__init__()
        self.states = states

    @property
    def decoder(self) -> _NoBody:
        """What OPT calls in its body."""
        return self

    def forward(self, *_: Any, **__: Any) -> BaseModelOutput:
        return _OnlyStates(last_hidden_state=self.states)  # type: ignore[arg-type]


def _with_states(model: PreTrainedModel, states: Tensor) -> PreTrainedModel:
    """Return a model of the same head and forward pass that starts from these hidden states.

    What a model does to its logits (Gemma's soft cap, the scales of Granite and Cohere) stands in
    its forward pass and nowhere else. The copy is shallow: weights, hooks and adapters are those of
    the model.
    """
    head = copy.copy(model)
    head._modules = {**model._modules, model.base_model_prefix: _NoBody(states)}
    return head


def token_positions(mask: Tensor) -> Tensor:
    """Positions (B, L) of tokens in their own text, for a mask (B, L) with padding on the left."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def expect_rows_for_tokens(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a model has a row for the tokens that its tokenizer puts around every text.

    A padding token without one is replaced, in place, by the end token: what is padded is masked.

    Raises:
        ValueError: if the model cannot read a begin token, or cannot say an end token.
    """
    rows = _rows(base)
    if int(tokenizer.pad_token_id) >= rows:  # type: ignore[arg-type]
        tokenizer.pad_token = tokenizer.eos_token
    around: list[int] = tokenizer("")["input_ids"]  # type: ignore[assignment]
    for i in (tokenizer.eos_token_id, *around):
        if int(i) >= rows:  # type: ignore[arg-type]
            raise ValueError(
                f"Expected a model with a row for each special token of its tokenizer, got {rows} "
                f"rows and {tokenizer.convert_ids_to_tokens(int(i))!r} with id {i}: "  # type: ignore[arg-type]
                "resize_token_embeddings(len(tokenizer)) and save the model again."
            )


def _rows(base: PreTrainedModel) -> int:
    # Of the weight, which an adapted layer shows as well.
    return int(base.get_input_embeddings().weight.shape[0])  # type: ignore[union-attr]


def _tokenless_ids(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    with_token = set(tokenizer.get_vocab().values())
    return [i for i in range(int(base.get_output_embeddings().out_features)) if i not in with_token]  # type: ignore[union-attr]


def _stop_ids(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    generation = base.generation_config.eos_token_id if base.generation_config else None
    more = generation if isinstance(generation, list) else [generation]
    return sorted({i for i in [tokenizer.eos_token_id, *more] if isinstance(i, int)})


class LoraBackbone(Backbone):
    """One frozen base, one LoRA or DoRA adapter per policy (see `lora_config`)."""

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        names: Sequence[str],
        *,
        config: LoraConfig,
        device: torch.device,
        seed: int,
        gradient_checkpointing: bool = False,
        sharding: Sharding | None = None,
    ):
        super().__init__(base, tokenizer, device, sharding)
        base.requires_grad_(False)
        # peft draws the initial weights from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model: PeftModel = get_peft_model(base, config, adapter_name=names[0])  # type: ignore[assignment]
            for name in names[1:]:
                self.model.add_adapter(name, config)
        speed_up_adapters(self.model)
        if not _is_quantized(base):  # those are loaded where they stay
            self.model.to(device)
        self.model.eval()
        if gradient_checkpointing:
            self._checkpoint_layers(base)
        self._parameters: dict[str, dict[str, nn.Parameter]] = {
            name: {
                key.replace(f".{name}", ""): parameter
                for key, parameter in self.model.named_parameters()
                if f".{name}." in f"{key}."
            }
            for name in names
        }
        self._restore_gradients()
        if sharding:
            sharding.shard(base, base.base_model)

    @contextmanager
    def use_adapter(self, name: str | None) -> Iterator[PreTrainedModel]:
        """Switch to a policy's adapter, or all adapters off."""
        if name is None:
            with self.model.disable_adapter():
                yield self.base
            self._restore_gradients()
            return
        if self.model.active_adapter != name:
            self.model.set_adapter(name)
            self._restore_gradients()
        yield self.base

    def _restore_gradients(self) -> None:
        # peft turns gradients off for every adapter it deactivates. Two forwards under two adapters
        # and one backward would leave the first without a gradient, and without an error.
        for parameters in self._parameters.values():
            for parameter in parameters.values():
                parameter.requires_grad_(True)

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Return the adapter's matrices."""
        return self._parameters[name]

    def save_pretrained(self, name: str, folder: Path, *, writes: bool = True) -> None:
        """Write a peft adapter folder with its tokenizer; adapters are whole everywhere."""
        if not writes:
            return
        # Base weights are frozen and of their own size: peft need not look for the base to compare.
        self.model.save_pretrained(
            str(folder), selected_adapters=[name], save_embedding_layers=False
        )
        # peft puts every adapter but one called "default" into a subfolder of its own.
        for file in (folder / name).iterdir():
            file.replace(folder / file.name)
        (folder / name).rmdir()
        # peft's card is a form to fill in, and names the base by its path on this machine.
        (folder / "README.md").unlink(missing_ok=True)
        self.tokenizer.save_pretrained(folder)


class FullBackbone(Backbone):
    """One trainable copy of the whole model per policy and one frozen copy for the reference."""

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        names: Sequence[str],
        *,
        dtype: torch.dtype,
        device: torch.device,
        gradient_checkpointing: bool = False,
        sharding: Sharding | None = None,
    ):
        super().__init__(base, tokenizer, device, sharding)
        base = base.float().eval()
        nn.Module.to(base, device)
        narrow = dtype if dtype != torch.float32 else None
        # Layers that are spread stay in float32; autocast computes in `dtype`.
        self._autocast = narrow if sharding else None
        self.models: dict[str | None, PreTrainedModel] = {}
        self._masters: dict[str, MasterWeights] = {}
        self._parameters: dict[str, dict[str, nn.Parameter]] = {}
        for name in (*names, None):  # one after the other: none is whole for longer than it must
            model = copy.deepcopy(base) if name else base
            self.models[name] = model.requires_grad_(name is not None)
            if name and gradient_checkpointing:
                self._checkpoint_layers(model)
            if sharding:
                sharding.shard(model, model.base_model)
            if name and narrow and not sharding:
                self._masters[name] = MasterWeights(model, narrow)
            elif narrow and not sharding:
                cast_parameters(model, narrow)
            if name:
                # Taken once: while a layer is gathered, the model shows other tensors.
                own = dict(model.named_parameters())
                masters = self._masters.get(name)
                self._parameters[name] = masters.parameters if masters else own

    @contextmanager
    def use_adapter(self, name: str | None) -> Iterator[PreTrainedModel]:
        """Pick the copy of a policy, or the frozen one."""
        if masters := self._masters.get(name or ""):
            masters.refresh()
        enabled = self._autocast is not None
        with torch.autocast(self.device.type, dtype=self._autocast, enabled=enabled):
            yield self.models[name]

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Return all weights of the copy, in float32."""
        return self._parameters[name]

    def save_pretrained(self, name: str, folder: Path, *, writes: bool = True) -> None:
        """Write a transformers folder with its tokenizer."""
        model = self.models[name]
        whole = whole_tensors(model.state_dict(), keep=writes) if self.sharding else None
        masters = self._masters.get(name)
        if writes:
            with masters.shown() if masters else nullcontext():
                model.save_pretrained(folder, state_dict=whole)
            self.tokenizer.save_pretrained(folder)


def pick_device(device: str) -> torch.device:
    """Return the named device; `auto` prefers an accelerator.

    Raises:
        ValueError: if this machine, or this build of PyTorch, has no such device.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device == "auto":
        return accelerator or torch.device("cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        place = None
    known = {"cpu": 1}
    if accelerator is not None:
        known[accelerator.type] = torch.accelerator.device_count()
    if place is None or not 0 <= (place.index or 0) < known.get(place.type, 0):
        more = "" if accelerator else ": PyTorch finds no accelerator on this machine"
        raise ValueError(
            f"Expected a device out of auto, {', '.join(known)}, got {device!r}{more}; leave out "
            "--device for the best there is."
        )
    return place


def pick_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """Return the dtype to compute in; `auto` takes bfloat16 where the hardware multiplies it."""
    if dtype != "auto":
        return getattr(torch, dtype)
    fast = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if fast else torch.float32


def load_base(
    model: str,
    dtype: torch.dtype,
    *,
    quantization: Quantization = "none",
    device: torch.device | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal LM and its tokenizer.

    Args:
        model: `embedded`, a folder, a name on the hub, or what `gguf_folder` takes.
        dtype: of the weights, or of the arithmetic on quantized ones.
        quantization: of the weights of linear layers.
        device: where quantized weights are put; the CPU if None.

    Raises:
        ValueError: if there is no such model, or it cannot be quantized here.
    """
    source = find_model(model)
    if model not in NAMED_MODELS:
        check_repository("causal language model", source)
    if is_gguf(model):
        source = str(gguf_folder(model, dtype))
    options: dict[str, Any] = {
        **{"dtype": dtype, "output_loading_info": True},
        **{"use_safetensors": True, "trust_remote_code": False},
    }
    if quantization != "none":
        options |= {
            "quantization_config": quantization_config(quantization, dtype),
            "device_map": {"": str(device or "cpu")},
        }
    check_safetensors(Path(source))
    try:
        tokenizer = load_hf_tokenizer(source)
        base, report = AutoModelForCausalLM.from_pretrained(source, **options)  # type: ignore[misc]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Expected a causal language model (`embedded`, a folder, or a name on the hub), "
            f"got {model!r}: {why_not(error)}"
        ) from error
    if report["missing_keys"]:
        # transformers would make them up and only warn.
        raise ValueError(
            f"Expected a trained causal language model, got {model!r}, which lacks the weights "
            f"{', '.join(sorted(report['missing_keys'])[:3])}."
        )
    if Path(source).is_dir():
        base.name_or_path = str(Path(source).absolute())  # what an adapter says it belongs to
    return base, tokenizer


def find_model(model: str) -> str:
    """Return where transformers finds a model.

    The embedded one is found by its name, and wherever a checkout lay in which an adapter of it was
    trained.
    """
    path = Path(model)
    moved = path.parts[-len(EMBEDDED_PARTS) :] == EMBEDDED_PARTS and not path.exists()
    return str(EMBEDDED_MODEL) if model == "embedded" or moved else model


def load_hf_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer that pads, and does so on the left.

    Raises:
        ValueError: if it has no end token.
        OSError: if there is none.
    """
    tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise ValueError("its tokenizer has no end token: set eos_token and save it again")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # what is padded is masked: any token will do
    return tokenizer


def quantization_config(kind: Literal["8bit", "4bit"], dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return the settings of LLM.int8() (arXiv 2208.07339) or QLoRA (arXiv 2305.14314).

    Raises:
        ValueError: if bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            f"Expected bitsandbytes for quantization {kind}, found none: "
            'pip install -c constraints.txt -e ".[agents,quantization]".'
        )
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def lora_config(
    model: nn.Module,
    rank: int,
    *,
    targets: Sequence[str] = ("all-linear",),
    rank_pattern: Mapping[str, int] | None = None,
    dora: bool = False,
) -> LoraConfig:
    """Return the settings of LoRA (Hu et al. 2021, arXiv 2106.09685) or DoRA (arXiv 2402.09353).

    Args:
        model: what will be adapted.
        rank: r; α is 2r everywhere.
        targets: last parts of the names of modules; `all-linear` is every linear layer but the
            head: "LoRA Without Regret" (Schulman et al. 2025) finds that RL matches full
            fine-tuning if the MLP is adapted, too.
        rank_pattern: rank by part of a module's name, such as `layers.0` or `mlp`; the first that
            fits counts.
        dora: learn magnitudes apart from directions.

    Raises:
        ValueError: if a target or a pattern fits no module.
    """
    rank_pattern = rank_pattern or {}
    names = [f".{name}." for name, _ in model.named_modules()]
    for part in targets:
        if part != "all-linear" and not any(name.endswith(f".{part}.") for name in names):
            raise ValueError(_no_module("lora_targets", "end", part, model))
    for part in rank_pattern:
        if not any(f".{part}." in name for name in names):
            raise ValueError(_no_module("lora_rank_pattern", "are in", part, model))
    ranks = {rf"{re.escape(part)}(\..*)?": r for part, r in rank_pattern.items()}
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear" if "all-linear" in targets else list(targets),
        rank_pattern=ranks,
        alpha_pattern={part: 2 * r for part, r in ranks.items()},
        use_dora=dora,
        task_type="CAUSAL_LM",
    )


def _no_module(field: str, how: str, part: str, model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if not list(module.children())]
    example = names[len(names) // 2]
    return f"Expected parts in {field} that {how} module names such as {example}, got {part!r}."


def make_backbone(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    *,
    adapter: AdapterKind,
    rank: int,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    targets: Sequence[str] = ("all-linear",),
    rank_pattern: Mapping[str, int] | None = None,
    gradient_checkpointing: bool = False,
    sharding: Sharding | None = None,
) -> Backbone:
    """Build the backbone of a run around a base model.

    Raises:
        ValueError: if the model is of a kind that this package cannot run, or if the adapter does
            not fit it.
    """
    quantized = _is_quantized(base)
    speed_up(base, device)
    backbone: Backbone
    if adapter == "full":
        if quantized:
            raise ValueError(
                "Expected adapter lora or dora on a quantized base, whose weights cannot be "
                "trained, got full: pass --adapter lora."
            )
        backbone = FullBackbone(
            base,
            tokenizer,
            names,
            dtype=dtype,
            device=device,
            gradient_checkpointing=gradient_checkpointing,
            sharding=sharding,
        )
    else:
        config = lora_config(
            base, rank, targets=targets, rank_pattern=rank_pattern, dora=adapter == "dora"
        )
        if not quantized:
            cast_parameters(base, dtype)
        backbone = LoraBackbone(
            base,
            tokenizer,
            names,
            config=config,
            device=device,
            seed=seed,
            gradient_checkpointing=gradient_checkpointing,
            sharding=sharding,
        )
    exact = dtype == torch.float32 and not quantized
    # Sums in another order: in float32 the last digits; eight bits of bfloat16 or of a quantized
    # layer add up to a few per cent of the largest logit over the layers.
    tolerance = 1e-3 if exact else 0.1
    check_pieces(backbone, tolerance)
    backbone.takes_wide_mask = device.type == "cuda" and takes_wide_mask(backbone, tolerance)
    return backbone


def _is_quantized(model: PreTrainedModel) -> bool:
    return model.config.to_dict().get("quantization_config") is not None


@torch.no_grad()
def check_pieces(backbone: Backbone, tolerance: float) -> None:
    """Check on six tokens that padding, cache and head give the logits of the model as a whole.

    Args:
        backbone: whose reference is run.
        tolerance: largest difference, in shares of the largest logit.

    Raises:
        ValueError: if they do not: recurrent models that padding disturbs, positions that cannot be
            given, heads that read more than the last hidden states.
    """
    ids = torch.arange(1, 7, device=backbone.device)[None] % backbone.rows
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]], device=backbone.device).bool()
    positions = token_positions(mask)
    padded = torch.cat([ids[:, :2], ids], dim=1)
    kind = type(backbone.base).__name__
    try:
        with backbone.use_adapter(None) as model:
            expected = model(input_ids=ids).logits.float()
        cache = backbone.new_cache()
        parts = [slice(0, 6), slice(6, 7), slice(7, 8)]
        hidden = [
            backbone.hidden(None, padded[:, p], mask[:, : p.stop], positions[:, p], cache)
            for p in parts
        ]
        found = backbone.head_logits(None, torch.cat(hidden, dim=1)[:, 2:]).float()
    except (TypeError, AttributeError, KeyError, ValueError, AssertionError) as error:
        # bitsandbytes asserts that a processor can multiply matrices of these sizes
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"Expected a causal language model that runs with padding, positions and a cache, got "
            f"{kind}: {reason}"
        ) from error
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= tolerance:
        raise ValueError(
            f"Expected a causal language model whose logits do not depend on padding and cache and "
            f"follow from its last hidden states, got {kind}, where they differ by "
            f"{difference:.2g} of the largest: choose another --model."
        )


@torch.no_grad()
def takes_wide_mask(backbone: Backbone, tolerance: float) -> bool:
    """Return whether a model gives the same hidden states for a mask that names each pair.

    Those that derive distances from the mask (Bloom) or read a window of it (Gemma) do not.

    Args:
        backbone: whose reference is run.
        tolerance: largest difference, in shares of the largest hidden state.
    """
    ids = torch.arange(1, 9, device=backbone.device)[None] % backbone.rows
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]], device=backbone.device).bool()
    positions = token_positions(mask)
    itself = torch.eye(8, dtype=torch.bool, device=backbone.device)  # or padding would read nothing
    wide = (mask[:, None, :] & torch.ones_like(itself).tril()) | itself
    expected = backbone.hidden(None, ids, mask, positions)[mask].float()
    try:
        found = backbone.hidden(None, ids, wide[:, None], positions)[mask].float()
    except (TypeError, AttributeError, ValueError, IndexError, RuntimeError):
        return False
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())

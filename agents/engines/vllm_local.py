"""vLLM in this process, on the GPU that also learns: it sleeps while the policies are updated.

Not yet run on a GPU: the calls were written against vLLM's source and are tested against a stand-in
with the same signatures.

Sources: vllm-project/vllm, vllm/entrypoints/llm.py (`LLM`, `generate`; at v0.26.0 `sleep` and
`wake_up`), vllm/sampling_params.py at 00388f65 (`SamplingParams`), and at v0.26.0
vllm/lora/request.py (`LoRARequest`) and vllm/config/lora.py (`MaxLoRARanks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from agents.config.options import MAY_CHANGE, Above, Between, Options
from agents.engines.base import (
    IMPORTANCE_CAP,
    AdapterFolder,
    Engine,
    EngineRun,
    Sampled,
    logit_bias,
    pack,
    row_seeds,
    unpadded,
)
from agents.errors import EngineError
from agents.policies.prefixes import tokens_left

if TYPE_CHECKING:
    from torch import Tensor

    from agents.policies.base import Generated, Policy
    from agents.policies.prefixes import Prefixes

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for the largest rank of an adapter."""

_OPTIONS = {
    # Log-probs are to be of the distribution that is sampled from.
    "logprobs_mode": "processed_logprobs",
    # A model's own generation_config.json may cut the distribution.
    "generation_config": "vllm",
}


def start_vllm(
    model: str,
    *,
    num_policies: int,
    rank: int,
    dtype: str,
    memory: float,
    max_tokens: int,
    seed: int,
    device: Mapping[str, Any],
) -> Any:
    """Load the base model a second time, into vLLM, and return its `LLM`.

    Args:
        model: a folder or a name on the hub.
        num_policies: adapters in use at a time.
        rank: of the adapters.
        dtype: of the arithmetic.
        memory: the part of the GPU's memory that vLLM takes while it is awake, in (0, 1].
        max_tokens: longest prompt and response together.
        seed: of what a request does not seed itself.
        device: further options of `LLM`, for the device.

    Raises:
        EngineError: if vLLM is not installed, or cannot start.
    """
    return _ask(
        "start",
        _import("vllm").LLM,
        model=model,
        dtype=dtype,
        seed=seed,
        gpu_memory_utilization=memory,
        max_model_len=max_tokens,
        enable_lora=True,
        max_loras=num_policies,
        # vLLM refuses what is larger than the largest of its ranks.
        max_lora_rank=next((r for r in RANKS if r >= rank), rank),
        **_OPTIONS,
        **device,
    )


def whole_prompts(batch_size: int, max_tokens: int) -> dict[str, Any]:
    """Return the options that keep vLLM's build for CPUs from reading a prompt in pieces.

    A request with a seed whose prompt is read in pieces ends its engine there ("CPU Generator does
    not use offset", `_bookkeeping_sync` in vllm/v1/worker/gpu_model_runner.py of 0.32.0).
    """
    return {
        "max_num_batched_tokens": batch_size * max_tokens,
        "enable_chunked_prefill": False,
    }


@dataclass(frozen=True, kw_only=True)
class VLLMConfig(Options):
    """vLLM on the GPU of the learner."""

    engine_memory: Annotated[float, Above(0), Between(0, 1), MAY_CHANGE] = 0.4
    """Part of the GPU's memory that vLLM takes while it generates, in (0, 1]."""


class VLLMEngine(Engine):
    """vLLM in the same process, on the same GPU; it sleeps during the update.

    Generates with `vllm.LLM` and one `LoRARequest` per version of a policy.
    """

    needs_lora = needs_one_base = needs_stored_base = continues = True
    importance_cap = IMPORTANCE_CAP
    Config = VLLMConfig

    def __init__(self, llm: Any, folder: Path, *, sleeps: bool):
        """Take over a started vLLM.

        Args:
            llm: from `start_vllm`.
            folder: where to write adapters.
            sleeps: whether there is memory to give back between rollouts: that of a GPU.
        """
        self._llm: Any = llm
        self._sleeps = sleeps
        self._adapters = AdapterFolder(folder)
        self._asleep = False

    @classmethod
    def from_run(cls, run: EngineRun) -> Self:
        """Load the base model a second time, into vLLM.

        Raises:
            EngineError: if vLLM is not installed, or cannot start.
        """
        options = run.config.engine_config
        assert isinstance(options, VLLMConfig)
        from agents.models.loading import pick_device

        sleeps = pick_device(run.config.device).type == "cuda"
        on_cpu = whole_prompts(run.config.batch_size, run.max_tokens)
        llm = start_vllm(
            run.model,
            num_policies=len(run.policies),
            rank=run.config.largest_rank,
            dtype=run.dtype,
            memory=options.engine_memory,
            max_tokens=run.max_tokens,
            seed=run.config.seed,
            device={"enable_sleep_mode": True} if sleeps else on_cpu,
        )
        return cls(llm, run.folder, sleeps=sleeps)

    def sync(self, policy: Policy) -> None:
        """Wake up, and write the policy's adapter for the requests to come."""
        if self._asleep:
            _ask("wake up", self._llm.wake_up)
            self._asleep = False
        if not policy.learns:
            return
        before = self._adapters.present.get(policy.name)
        self._adapters.write(policy)
        if before is not None:
            # vLLM lets go of the version itself when the next one needs its place.
            self._adapters.remove(before)

    def generate(
        self,
        policy: Policy,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        uniforms: Tensor,
        prefixes: Prefixes | None = None,
        greedy: bool = False,
    ) -> Generated:
        """Sample one response to each prompt, or the rest of one; see `Engine`."""
        prompt_ids, prompt_mask = policy.encode(prompts, max_new_tokens, prefixes)
        limits = tokens_left(prefixes, len(prompts), max_new_tokens)
        shared = dict(
            temperature=0.0 if greedy else policy.temperature,
            top_p=1.0 if greedy else policy.top_p,
            logprobs=0,
            ignore_eos=True,
            stop_token_ids=policy.backbone.stop_ids.tolist(),
            detokenize=False,
            **logit_bias(policy),
        )
        sampling_params = _import("vllm").SamplingParams
        outputs = _ask(
            "generate",
            self._llm.generate,
            [{"prompt_token_ids": row} for row in unpadded(prompt_ids, prompt_mask)],
            [
                sampling_params(max_tokens=limit, seed=seed, **shared)
                for limit, seed in zip(limits, row_seeds(uniforms), strict=True)
            ],
            use_tqdm=False,
            lora_request=self._lora_request(policy) if policy.learns else None,
        )
        sampled = [_sampled(output.outputs[0]) for output in outputs]
        return pack(policy, prompt_ids, prompt_mask, sampled, limits)

    def _lora_request(self, policy: Policy) -> Any:
        adapter = self._adapters.present[policy.name]
        lora_request = _import("vllm.lora.request").LoRARequest
        return lora_request(adapter.name, adapter.number, str(adapter.folder))

    def rest(self) -> None:
        """Move the weights to main memory and drop the key-value cache, if they are on a GPU."""
        if not self._sleeps:
            return
        _ask("sleep", self._llm.sleep, level=1)
        self._asleep = True

    def close(self) -> None:
        """Let vLLM go and delete the adapters' files."""
        self._llm = None
        self._adapters.clear()


def _import(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise EngineError(
            f'Expected vLLM to be installed, got "{error}": pip install "vllm>=0.11", or pass '
            "--engine builtin."
        ) from error


def _sampled(completion: Any) -> Sampled:
    ids = list(completion.token_ids)
    chosen = [step[i].logprob for i, step in zip(ids, completion.logprobs, strict=True)]
    return Sampled(ids, chosen)


def _ask(what: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call into vLLM; whatever it raises, it is the engine that has failed."""
    try:
        return call(*args, **options)
    except Exception as error:
        raise EngineError(
            f"Expected vLLM to {what}, got {type(error).__name__}: {_why(error)}."
        ) from error


def _why(error: Exception) -> str:
    """Return what an error says, whole and in one line; of pydantic's, without where it was."""
    told = getattr(error, "errors", None)
    text = "; ".join(str(part["msg"]) for part in told()) if told else str(error)
    return " ".join(text.split()).rstrip(".")

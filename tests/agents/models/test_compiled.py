"""Compiled layers: few graphs, the same numbers, and nothing else that is different."""

from __future__ import annotations

import math
import os

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from agents.config.train import TrainConfig
from agents.models.backbone import token_positions
from agents.models.compiled import CompiledLayers
from agents.models.gain import Gain, measure_gain
from tests.agents.small_models import model_backbone

TEAM = ("llm_0", "llm_1")


@pytest.fixture(autouse=True)
def no_graphs_of_others(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    counters.clear()


def backbone_of(kind: str, backend="eager", **options):
    return model_backbone(kind, names=TEAM, moved=0.02, compiled=CompiledLayers(backend), **options)


def gradients(backbone, name: str, rows: int, tokens: int, padding: int = 2):
    ids = torch.randint(3, 512, (rows, tokens), generator=torch.Generator().manual_seed(rows))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :padding] = False
    hidden = backbone.hidden(name, ids, mask, token_positions(mask))
    weights = torch.linspace(-1, 1, hidden[0].numel()).view(hidden[0].shape) * mask[..., None]
    (hidden * weights).sum().backward()
    parameters = backbone.parameters(name)
    found = {key: parameter.grad for key, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None
    return {"hidden": hidden.detach() * mask[..., None], **found}


@pytest.mark.parametrize(
    ("kind", "adapter", "graphs"),
    [("llama", "lora", 2), ("gpt2", "lora", 2), ("gpt2", "full", 1)],
)
def test_layers_policies_and_shapes_share_graphs_without_breaks(kind, adapter, graphs):
    backbone = backbone_of(kind, adapter=adapter)
    for name, rows, tokens in (("llm_0", 3, 9), ("llm_1", 3, 9), ("llm_0", 2, 12)):
        gradients(backbone, name, rows, tokens)
    assert counters["stats"]["unique_graphs"] == graphs, "all three layers in the same"
    gradients(backbone, "llm_0", 3, 9, padding=0)
    gradients(backbone, "llm_1", 4, 7, padding=0)
    assert counters["stats"]["unique_graphs"] == 2 * graphs, "without a mask"
    assert not counters["graph_break"]


def test_what_takes_no_gradient_is_not_compiled():
    backbone = backbone_of("llama")
    ids = torch.arange(3, 13).view(2, 5)
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        backbone.hidden("llm_0", ids, mask, token_positions(mask))
        backbone.hidden(None, ids, mask, token_positions(mask), backbone.new_cache())
    with backbone.compiled.off():
        gradients(backbone, "llm_0", 2, 5)
    assert not counters["stats"]


@pytest.mark.parametrize(
    ("kind", "adapter", "checkpointing"), [("gpt2", "lora", True), ("gpt2", "full", False)]
)
def test_compiled_layers_learn_what_plain_ones_do(kind, adapter, checkpointing):
    # The backward pass is derived from the graph, by a backend that needs no C++ compiler.
    options = {"adapter": adapter, "gradient_checkpointing": checkpointing}
    backbone = backbone_of(kind, "aot_eager", **options)
    plain = model_backbone(kind, names=TEAM, moved=0.02, **options)
    assert [*backbone.base.state_dict()] == [*plain.base.state_dict()]
    for name in TEAM:  # of which one graph must read the adapter that is shown
        found, expected = (gradients(b, name, 3, 9) for b in (backbone, plain))
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            # float32 sums of some hundred terms in another order
            torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-5, msg=key)
    assert counters["stats"]["unique_graphs"] > 0


def test_after_a_step_compiled_layers_read_the_new_factors():
    backbone = backbone_of("llama")
    plain = model_backbone("llama", names=TEAM, moved=0.02)
    for each in (backbone, plain):
        gradients(each, "llm_0", 2, 6)
        with torch.no_grad():
            for parameter in each.parameters("llm_0").values():
                parameter += 0.1
    found, expected = (gradients(b, "llm_0", 2, 6)["hidden"] for b in (backbone, plain))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# ---- what it costs, and what is refused


def test_compiling_pays_after_as_many_passes_as_its_seconds_are_worth():
    gain = Gain(rows=8, tokens=32, compiling=12.0, eager=0.5, compiled=0.25)
    assert gain.passes == 48.0
    assert "pays after 48 passes, and the run has 360." in gain.described(360)
    never = Gain(rows=8, tokens=32, compiling=12.0, eager=0.5, compiled=0.5)
    assert math.isinf(never.passes)
    assert "it does not pay, and the run has 360." in never.described(360)


def test_measuring_compiles_once_and_leaves_no_gradient():
    backbone = backbone_of("llama")
    gain = measure_gain(backbone, "llm_0", 3, 9)
    assert (gain.rows, gain.tokens) == (3, 9)
    assert counters["stats"]["unique_graphs"] == 2
    assert all(p.grad is None for name in TEAM for p in backbone.parameters(name).values())


def wrong(graph, _):
    return lambda *inputs: [1.1 * graph(*inputs)[0]]


def broken(graph, _):
    raise OSError("no room\nin the cache")


@pytest.mark.parametrize(
    ("backend", "said"),
    [(wrong, "where they differ by"), (broken, "no room")],
)
def test_what_computes_something_else_or_does_not_compile_is_refused_in_one_line(backend, said):
    backbone = backbone_of("llama", backend)
    with pytest.raises(ValueError, match="leave out --compile") as caught:
        measure_gain(backbone, "llm_0", 3, 9)
    assert said in str(caught.value)
    assert "LlamaForCausalLM" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_without_layers_that_are_known_is_refused():
    with pytest.raises(ValueError, match="Expected a model of decoder layers with compile"):
        CompiledLayers().add(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("field", "value"), [("adapter", "dora"), ("quantization", "8bit"), ("quantization", "4bit")]
)
def test_what_is_not_compiled_is_refused_before_a_model_is_loaded(field, value):
    with pytest.raises(ValueError, match=f"with compile, got {value}: pass --{field}"):
        TrainConfig(compile=True, **{field: value})
    TrainConfig(**{field: value})


@pytest.mark.parametrize("before", [None, default_cache_dir(), "/named"])
def test_graphs_are_kept_with_other_files_unless_the_user_names_a_folder(
    monkeypatch, tmp_path, before
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(before))
    if before is None:
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    CompiledLayers()
    expected = before if before == "/named" else str(tmp_path / "cory" / "inductor")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == expected

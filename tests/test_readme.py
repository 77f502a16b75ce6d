"""The Python blocks of the README and of the documentation run; examples run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FAQ = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
RUNNABLE = [path for path in PAGES if "```python\n" in path.read_text(encoding="utf-8")]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LEARNERS = sorted((ROOT / "examples" / "learners").glob("*.py"))
NEEDS = {"sb3_maskable_ppo": "sb3_contrib"}
"""What a learner's example imports, where that goes into one environment with everything else."""


def run_python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def blocks(path: Path) -> str:
    """The Python blocks of a page, its whole run cut to two small iterations."""
    text = "\n".join(re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), flags=re.DOTALL))
    text = text.replace("iterations=45,", "iterations=2, batch_size=8, minibatch_size=8,")
    text = text.replace("num_queries=64", "num_queries=8")
    return text.replace('out="runs/demo"', 'out="runs/demo", evaluation_queries=8')


def test_the_readme_is_a_door():
    assert len(README.splitlines()) <= 100


def test_the_policy_that_peft_loads_answers_like_ours(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from agents import TrainConfig, load_policy, train

    out = str(tmp_path / "run")
    small = {"iterations": 1, "batch_size": 8, "minibatch_size": 8, "evaluation_queries": 0}
    train(TrainConfig(out=out, learning_rate=0.02, dtype="float32", **small))
    base = AutoModelForCausalLM.from_pretrained(ROOT / "agents/assets/model")
    folder = tmp_path / "run" / "final" / "llm_0"
    policy = PeftModel.from_pretrained(base.float(), str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("This film was", return_tensors="pt")
    ids = policy.generate(**inputs, max_new_tokens=12, do_sample=False)
    text = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    ours = load_policy(folder, dtype="float32").generate(
        ["This film was"], max_new_tokens=12, greedy=True
    )
    assert ours.texts == [text]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_short_and_runs(path, tmp_path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
    result = run_python(str(path), "--smoke", cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", LEARNERS, ids=lambda path: path.stem)
def test_the_examples_of_other_learners_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("name", NEEDS)
def test_the_examples_of_other_learners_run(name, tmp_path):
    pytest.importorskip(NEEDS[name])
    path = ROOT / "examples" / "learners" / f"{name}.py"
    result = run_python(str(path), "--smoke", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(r"episodes,reward\n\d+,\d", result.stdout)


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_the_python_blocks_of_a_page_run_one_after_the_other(path, tmp_path):
    result = run_python("-c", blocks(path), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    if path.stem == "README":
        assert "observer_0 answers" in result.stdout
    if path.stem == "gpu":  # its table is what the block under it prints
        assert len(result.stdout.splitlines()) == 4
        page = path.read_text(encoding="utf-8")
        assert all(f"{line}\n" in page for line in result.stdout.splitlines())


MISTAKES = (
    "train imdb --learningrate 1",
    "train imdb --batch-size 100",
    "train imdb --algorithm grpo --group-size 3",
    "train imdb --algorithm ppo",
    "train imdb --algorithm grpo --critic-learning-rate 1",
    "train imdb --quantization 4bit --adapter full",
    "train imdb --engine vllm_server",
    "evaluate nothing",
)


@pytest.mark.parametrize("words", MISTAKES)
def test_the_errors_of_the_page_of_questions_are_real(words, capsys, tmp_path, monkeypatch):
    from agents.cli.main import main

    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    said = capsys.readouterr().err.replace("`", "")
    listed = re.findall(r"^\| `(Expected .*?)` \|", FAQ, flags=re.MULTILINE)
    patterns = [".*".join(map(re.escape, text.split("…"))) for text in listed]
    assert any(re.search(pattern, said) for pattern in patterns), said


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_local_link_of_a_page_exists(path):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert not [link for link in links if not (path.parent / link).exists()]


def test_every_page_is_in_the_navigation_and_on_the_first_page():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    first = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    names = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert not {name for name in names if f" {name}\n" not in navigation}
    assert not {name for name in names if f"({name})" not in first}

"""What a newcomer asks the command line: help, lists, versions, completion."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields

import pytest

from agents.cli.about import REGISTRIES
from agents.cli.commands import COMMANDS, OwnFlags
from agents.cli.flags import task_first
from agents.cli.main import EXAMPLES, USAGE, main
from agents.config.groups import GROUPS, Everyday
from agents.config.options import field_docs, field_names
from agents.config.run import RunConfig
from agents.config.train import every_owner
from agents.registries import PRESETS

EVERYDAY = ("algorithm", "model", "reward", "observers", "iterations", "learning-rate", "seed")


def help_of(capsys, *words: str) -> str:
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--help"])
    return capsys.readouterr().out


def default_of(text: str, flag: str) -> str:
    """Return the default that help names for a flag, whatever the width of its box."""
    flat = re.sub(r"[│\s]+", " ", text)
    found = re.search(rf" --{flag} [A-Z].*?default: (.*?)\)", flat)
    assert found, flag
    return found[1]


def test_the_eight_everyday_flags_come_first_and_every_group_has_a_box(capsys):
    text = help_of(capsys, "train")
    assert re.findall(r"^\W --([a-z-]+) ", text, re.MULTILINE)[:8] == [*EVERYDAY, "out"]
    boxes = re.findall(r"^\W+ (\S+) options \W", text, re.MULTILINE)
    groups = [kind.__name__.lower() for kind in GROUPS]
    assert boxes[-len(groups) - 2 :] == ["everyday", "start", *groups[1:], "algorithm"]
    assert "--task " not in text


def test_every_field_of_a_run_has_one_group_and_every_field_a_line_of_help():
    names = [name for kind in GROUPS for name in field_names(kind)]
    assert sorted(names) == sorted(field_names(RunConfig))
    assert len(field_names(Everyday)) == 9  # the task is a word of the command
    for kind in (*every_owner(), *COMMANDS.values()):
        docs = field_docs(kind)
        for one in fields(kind):
            assert docs[one.name], (kind, one.name)
            assert "\n" not in docs[one.name]


def test_help_shows_the_defaults_of_the_task_the_preset_and_the_model(capsys):
    for words, flag, value in (
        (["train"], "iterations", "45"),
        (["train", "arithmetic"], "iterations", "120"),
        (["train", "arithmetic"], "kl-coef", "0.01"),
        (["train", "--preset", "paper-imdb", "imdb"], "learning-rate", "1.41e-05"),
        (["train", "gsm8k", "--model", "a/b"], "batch-size", "32"),
        (["train", "imdb", "--algorithm", "gspo"], "clip", "0.0003"),
        (["train", "imdb", "--iterations", "7", "--resume"], "iterations", "45"),
    ):
        assert default_of(help_of(capsys, *words), flag) == value, words


def test_help_lists_presets_and_examples_that_are_understood(capsys):
    text = help_of(capsys, "train")
    for preset in PRESETS:
        assert f"  {preset} " in text
    examples = re.findall(r"^  \{program\} (.*)$", EXAMPLES, re.MULTILINE)
    assert len(examples) == 5
    for example in examples:
        assert example in text
        help_of(capsys, *example.removesuffix(" --help").split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_usage_and_has_help(command, capsys):
    assert f"\n  {command} " in USAGE
    assert f"agents {command} " in help_of(capsys, command)


def test_a_task_may_stand_anywhere_among_the_flags():
    words = ["toy", "--seed", "3", "--no-resume", "--kl-coef", "-1", "--yes", "--out=x", "-h"]
    for place in (0, 2, 3, 5, 6, 7, 8):
        moved = [*words[1:]]
        moved.insert(place, "toy")
        assert task_first(moved, OwnFlags) == words, moved
    assert task_first(["a", "--resume", "b"], OwnFlags) == ["a", "b", "--resume"]
    assert task_first(["--config", "a"], OwnFlags) == ["", "--config", "a"]


def test_list_names_all_kinds_with_a_line_each(capsys):
    for word, registry in REGISTRIES.items():
        assert main(["list", word]) == 0
        title, *lines = capsys.readouterr().out.splitlines()
        assert title == f"{registry.kind}:"
        assert [line.split()[0] for line in lines] == registry.known()
        assert all(len(line.split()) > 1 for line in lines)
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert all(f"{registry.kind}:\n" in text for registry in REGISTRIES.values())


def test_list_names_what_a_file_of_the_user_registers(capsys, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from agents.registries import register_preset\n"
        "@register_preset('mine-for-list')\n"
        "def mine():\n    '''A start of mine.'''\n    return {}\n"
    )
    try:
        assert main(["list", "presets", "--import", str(file)]) == 0
        assert "  mine-for-list    A start of mine.\n" in capsys.readouterr().out
    finally:
        del PRESETS["mine-for-list"]


def test_env_names_versions_that_are_installed(capsys):
    import torch

    assert main(["env"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^cory-env: \d", text)
    assert f"\ntorch: {torch.__version__}\n" in text
    assert re.search(r"^python: CPython 3\.\d+", text, re.MULTILINE)
    assert "vllm: " in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_completes_flags_and_names(shell, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("reinforce++", "paper-imdb", "new-task", "learning-rate", "kl-coef"):
        assert word in script


def test_bash_completes_what_it_is_told(capsys, tmp_path):
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "cory.bash"
    script.write_text(capsys.readouterr().out)
    ask = (
        f'source {script}; f() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_cory cory '
        '"${@: -1}"; echo ${COMPREPLY[@]}; }; '
        "f cory train --alg; f cory train --algorithm gr; f cory train im; f cory lis"
    )
    try:
        done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("no bash")
    assert done.stdout.split("\n")[:4] == ["--algorithm", "grpo", "imdb", "list"]

"""Mistakes of users: exit code 2 and one line with what was expected, what came and what was meant.

All are made in one fresh process, without a network, in which torch must never be loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[3]

COMMANDS = [
    # Names.
    ("trian imdb", "did you mean train?"),
    ("evalute runs/x", "did you mean evaluate?"),
    (
        "train imbd",
        "(arithmetic, gsm8k, imdb, lesson, toy, rg:NAME), got 'imbd': did you mean imdb?",
    ),
    ("train IMDB", "did you mean imdb?"),
    ("train my_task", "your own comes with --import FILE"),
    ("train imdb --algorithm mapo", "did you mean mappo?"),
    ("train imdb --algorithm reinforce", "did you mean reinforce++?"),
    ("train imdb --algorithm dr-grpo", "did you mean dr_grpo?"),
    ("train imdb --preset imdb_individual", "did you mean imdb-individual?"),
    ("train imdb --preset big", "paper-imdb"),
    ("train imdb --trackers wandbb", "did you mean wandb?"),
    ("train imdb --trackers mlflow", "Expected a tracker (tensorboard, wandb, trackio)"),
    ("train imdb --engine vlm", "did you mean vllm?"),
    ("train imdb --kl exakt", "did you mean exact?"),
    ("train imdb --kl k9", "got 'k9'"),
    ("train imdb --adapter lorra", "did you mean lora?"),
    ("train imdb --swap allways", "every, plateau, random, merge, never"),
    ("train imdb --schedule cosin", "did you mean cosine?"),
    ("train imdb --device cdua", "did you mean cuda?"),
    ("train imdb --dtype bf16", "bfloat16"),
    ("train imdb --quantization 4bits", "did you mean 4bit?"),
    ("train imdb --reward-sharing colective", "did you mean collective?"),
    ("train imdb --reward sentimant", "did you mean sentiment?"),
    ("train imdb --reward ./nothing", "there is no such file or folder"),
    ("train imdb --model embeded", "did you mean embedded?"),
    ("train imdb --model smollm", "did you mean smollm2?"),
    ("train imdb --model qwen25", "HF_HUB_OFFLINE is set"),
    ("train imdb --model ./modell", "did you mean model?"),
    ("train imdb --model a/b/c", "there is no such file or folder"),
    ("train imdb --model file.gguf", "there is no such file or folder"),
    ("train arithmetic --test-split adsub", "did you mean addsub?"),
    ("train gsm8k --train-split dev", "Expected a split (train, test), got 'dev'"),
    ("compare imdb --variants cory-mapo", "did you mean cory-mappo?"),
    ("compare imdb --variants no-exchange --budget all", "Expected a budget of (episodes, respon"),
    ("compare imdb --variants no-exchange --budget tokens", "try tokens=10000"),
    ("train imdb --budget token=5", "did you mean tokens?"),
    ("train imdb --budget tokens=0", "with a limit above 0, got 'tokens=0'"),
    ("play imbd", "did you mean imdb?"),
    ("play toy --seat observer", "did you mean observer_0?"),
    ("play toy --split tset", "did you mean test?"),
    # Flags.
    ("train imdb --learnin-rate 1e-3", "did you mean --learning-rate?"),
    ("train imdb --learningrate 1e-3", "did you mean --learning-rate?"),
    ("train imdb --resum", "did you mean --resume?"),
    ("train --presett big imdb", "did you mean --preset?"),
    ("compare imdb --varients ppo", "did you mean --variants?"),
    ("evaluate runs/x --querys 4", "did you mean --queries?"),
    ("play toy --partnr runs/x", "did you mean --partner?"),
    ("merge a b --dtyp float32", "did you mean --dtype?"),
    ("train imdb gsm8k", "nothing more behind `train`, got gsm8k"),
    ("train", "Expected `train TASK`"),
    ("merge a", "Expected `merge POLICY OUT`"),
    ("report", "at least one run folder"),
    ("average", "at least two policies to average, got none"),
    ("average adapter adapter", "a folder to write to, got none: pass --out DIR"),
    ("average runs/x --ou new", "did you mean --out?"),
    # Values.
    ("train imdb --iterations many", "Expected a whole number for --iterations, got 'many'"),
    ("train imdb --iterations 1.5", "Expected a whole number"),
    ("train imdb --iterations", "Expected a value behind --iterations"),
    ("evaluate runs/x --k 1 two", "for --k, got ['1', 'two']"),
    ("train imdb --iterations 0", "at least 1, got 0"),
    ("train imdb --learning-rate high", "Expected a number for --learning-rate, got 'high'"),
    ("train imdb --learning-rate 0", "above 0"),
    ("train imdb --kl-coef -1", "kl_coef to be at least 0"),
    ("train imdb --top-p 1.5", "between 0 and 1"),
    ("train imdb --seed -1", "seed to be at least 0"),
    ("train imdb --batch-size 100", "try --minibatch-size 25"),
    ("train imdb --lora-rank-pattern mlp:2", "try --lora-rank-pattern"),
    ("train imdb --lora-targets q_proj,", "try --lora-targets"),
    ("train toy --task-options length=two", "a whole number, got 'two'"),
    ("train toy --task-options lenght=2", "did you mean length?"),
    ("train gsm8k --task-options wording=new", "of the task gsm8k (longest), got 'wording'"),
    ("train arithmetic --task-options difficulty", "NAME=VALUE"),
    ("train arithmetic --task-options difficulty=9", "got 9"),
    ("train arithmetic --task-options wording=nw", "did you mean new?"),
    # What does not go together.
    ("train imdb --algorithm ppo", "--observers 0"),
    ("train imdb --handover value --reward-sharing individual", "--handover sampled"),
    ("train imdb --model embedded,tiny,tiny", "one for each of 2 policies"),
    ("train imdb --engine vllm_server", "--engine-url"),
    ("train imdb --adapter full --quantization 4bit", "--adapter lora"),
    # Files.
    ("evaluate nothing", "Expected a run folder"),
    ("average nothing adapter --out new", "nothing, which is no folder"),
    ("average adapter --out new", "at least two policies to average, got adapter"),
    ("average adapter whole --out new", "policies of one kind, got adapter and whole"),
    ("average adapter adapter_of_another --out new", "one base model, got base and another"),
    ("average adapter dora --out new", "one kind, got use_dora=False and True"),
    ("average adapter elsewhere --out new", "got no base_model.model.q.lora_A.weight in elsewhere"),
    ("average adapter wider --out new", "base_model.model.q.lora_B.weight of (2,) and (3,)"),
    ("average adapter other_words --out new", "one vocabulary"),
    ("average adapter adapter --out model", "a new or empty folder"),
    ("average adapter adapter --out new --weights 1", "Expected 2 weights"),
    ("average adapter adapter --out new --weights 0 0", "at least 0, and one above, got 0 0"),
    ("average adapter adapter --out new --rank -1", "rank to be at least 0"),
    ("average whole whole --out new --scale 2", "no --rank and no --scale with whole models"),
    ("average dora dora --out new --scale 2", "no --scale with DoRA"),
    ("train imdb --resume", "Expected a run"),
    ("train imdb --import my_tsk.py", "did you mean my_task.py?"),
    ("train imdb --import no_such_module", "No module named 'no_such_module'"),
    ("train imdb --import broken.py", "NameError"),
]

CALLS = [
    ("TrainConfig(iterations='10')", "write iterations=10, without quotation marks"),
    ("TrainConfig(iterations=1.5)", "Expected iterations to be a whole number, got 1.5"),
    ("TrainConfig(observers=True)", "Expected observers to be a whole number, got True"),
    ("TrainConfig(learning_rate='1e-3')", "write learning_rate=1e-3"),
    ("TrainConfig(learning_rate=None)", "Expected learning_rate to be a number, got None"),
    ("TrainConfig(chat_template=1)", "True or False, got 1"),
    ("TrainConfig(kl='exakt')", "did you mean exact?"),
    ("TrainConfig(algorithm='mapo')", "did you mean mappo?"),
    ("TrainConfig(algorithm=dict)", "Expected algorithm to be a name, got the class dict"),
    ("TrainConfig(task='imbd')", "did you mean imdb?"),
    (
        "TrainConfig(task=cory_env.make_task('toy'))",
        "got a task object (ToyTask): pass it to train(config, task=…)",
    ),
    (
        "TrainConfig(reward=lambda e, r: r)",
        "got a function: pass it to train(config, reward=…), or register it",
    ),
    ("TrainConfig(model=object())", "save_pretrained"),
    ("TrainConfig(model=['embedded', 'tiny', 'tiny'])", "one for each of 2 policies"),
    ("TrainConfig(trackers=['wandbb'])", "did you mean wandb?"),
    ("TrainConfig(task='toy', task_options={'lenght': 2})", "did you mean length?"),
    ("TrainConfig(task_options=['difficulty'])", "a mapping"),
    ("TrainConfig(iteratons=3)", "did you mean iterations?"),
    ("TrainConfig(learning_rates=[1e-3])", "did you mean learning_rate?"),
    ("TrainConfig.from_json({'iteratons': 3})", "did you mean iterations?"),
    ("TrainConfig.from_json({'swap_resets': True})", "git checkout 57e4a78"),
    ("TrainConfig.from_json({'repetition_penalty': 1.1})", "git checkout 57e4a78"),
    ("cory_env.make_task('imbd')", "did you mean imdb?"),
    ("cory_env.make_task('gsm8k', split='tset')", "did you mean test?"),
    ("cory_env.make_task('gsm8k', wording='new')", "(longest), got 'wording'"),
    ("cory_env.make_reward('sentimant')", "did you mean sentiment?"),
    ("cory_env.env('toy', action_level='tokens')", "did you mean token?"),
    ("cory_env.parallel_env('toy', action_levl='token')", "did you mean action_level?"),
    ("cory_env.vector_env(2, 'toy', observer=2)", "did you mean observers?"),
    ("cory_env.gym_env('observer', task='toy')", "did you mean observer_0?"),
    ("cory_env.env('toy', tokenizer='embeded')", "did you mean embedded?"),
    ("cory_env.env('toy', reward_sharing='colective')", "did you mean collective?"),
    ("cory_env.env('toy', render_mode='humn')", "did you mean human?"),
    ("agents.import_plugins('my_tsk.py')", "did you mean my_task.py?"),
]

PROGRAM = """
import contextlib, io, json, sys
import agents, cory_env
from agents import TrainConfig
from agents.cli.main import main

calls = [
CALLS
]
answers = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words.split())
    answers.append([code, out.getvalue(), err.getvalue(), "torch" in sys.modules])
for call in calls:
    try:
        error = repr(call())
        code = 0
    except (ValueError, TypeError) as caught:
        code, error = 2, f"error: {caught}\\n"
    answers.append([code, "", error, "torch" in sys.modules])
print(json.dumps(answers))
"""


def _write_policies(folder: Path) -> None:
    """Write policies of which `adapter` has a mean with itself alone."""

    def write(name: str, *, layer: str = "q", width: int = 2, words: str = "a", **settings) -> None:
        (folder / name).mkdir()
        config = {"base_model_name_or_path": "base", "peft_type": "LORA", "use_dora": False}
        (folder / name / "adapter_config.json").write_text(json.dumps({**config, **settings}))
        (folder / name / "tokenizer.json").write_text(json.dumps({"model": {"vocab": [words]}}))
        tensors = {
            f"base_model.model.{layer}.lora_A.weight": np.zeros((1, 2), "float32"),
            f"base_model.model.{layer}.lora_B.weight": np.zeros((width, 1), "float32"),
        }
        save_file(tensors, folder / name / "adapter_model.safetensors")

    write("adapter")
    write("adapter_of_another", base_model_name_or_path="another")
    write("dora", use_dora=True)
    write("elsewhere", layer="v")
    write("wider", width=3)
    write("other_words", words="b")
    (folder / "whole").mkdir()
    (folder / "whole" / "config.json").write_text("{}")
    save_file({"weight": np.zeros(1, "float32")}, folder / "whole" / "model.safetensors")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Make all mistakes, and return what came of each."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "my_task.py").write_text("")
    (folder / "broken.py").write_text("nothing_of_this_name\n")
    (folder / "model").mkdir()
    (folder / "model" / "notes.txt").write_text("mine")
    _write_policies(folder)
    rows = [words for words, _ in COMMANDS], [call for call, _ in CALLS]
    program = PROGRAM.replace("CALLS", "\n".join(f"lambda: {call}," for call in rows[1]))
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(rows[0]),
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder / "hub"),
            "XDG_STATE_HOME": str(folder / "state"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        },
    )
    return dict(zip([*rows[0], *rows[1]], json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(("mistake", "words"), [*COMMANDS, *CALLS])
def test_a_mistake_is_one_line_that_says_how_to_mend_it(answers, mistake, words):
    code, out, error, torch_is_loaded = answers[mistake]
    assert (code, out) == (2, ""), error
    assert error.startswith("error: Expected ")
    assert error.count("\n") == 1
    assert words in error
    assert "TrainConfig:" not in error
    assert not torch_is_loaded

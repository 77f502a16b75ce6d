"""A person at the table: what they read, type and see, and what goes wrong politely."""

from __future__ import annotations

import io
import os
import re
import select
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from agents.cli.main import main
from agents.models.files import EMBEDDED_MODEL
from agents.models.tiny import tiny_model
from agents.policies.load import load_policy
from agents.terminal.hush import hushed
from cory_env import Example, make_task
from cory_env.registry import TASKS
from cory_env.tasks.toy import ToyTask


@pytest.fixture
def play(monkeypatch, capsys):
    """Return a function that plays with lines piped in, and returns what is to be seen."""

    def run(*argv: str, typed: str) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        assert main(["play", *argv]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return run


@pytest.fixture(scope="module")
def embedded():
    return load_policy(EMBEDDED_MODEL, dtype="float32")  # act and generate round alike


@pytest.fixture
def loaded(monkeypatch, embedded):
    """Load the embedded model once for all games of this file."""
    monkeypatch.setattr("agents.policies.load.load_policy", lambda folder: embedded)
    return embedded


@pytest.fixture
def toy_policy(tmp_path):
    """Return the folder of a policy with the toy task's vocabulary."""
    model, tokenizer = tiny_model(ToyTask(), seed=0)
    with hushed():
        model.save_pretrained(tmp_path / "llm_0")
        tokenizer.save_pretrained(tmp_path / "llm_0")
    return str(tmp_path / "llm_0")


def row(out: str, name: str) -> list[tuple[float, float]]:
    """Return (task reward, paid) of every table line of an agent."""
    found = re.findall(rf"^  {re.escape(name)} +(-?\d+\.\d+) +(-?\d+\.\d+)", out, re.MULTILINE)
    return [(float(task_reward), float(paid)) for task_reward, paid in found]


def in_order(out: str, *parts: str) -> None:
    """Expect the parts, one behind the other."""
    place = 0
    for part in parts:
        assert part in out[place:], f"{part!r} is missing behind {out[:place]!r} in {out!r}"
        place = out.index(part, place) + len(part)


def sampled(policy, prompt: str, seed: int) -> str:
    generator = torch.Generator().manual_seed(seed)
    return policy.generate([prompt], max_new_tokens=16, generator=generator).texts[0]


def test_an_observer_of_toy_reads_no_more_than_its_seat_does(play):
    out = play("toy", "--seed", "0", typed="cfg\n\n")
    in_order(
        out,
        "toy: Reverse a random string.",
        "You are observer_0. Your partner is a script",
        "Answer in at most 3 tokens",
        *("pioneer_0", "answers  efg"),
        *("observer_0 (you) is on turn", "reads  efg="),
        "your response> cfg",
        "query gfe",
        "gold answer efg",
        "each is paid the sum of all.",
        "Enter = again, q = quit>",
        "your response>",
        "Mean of 1 game\n",
    )
    assert "gfe" not in out[: out.index("your response>")]
    assert "begin a new word with a space" not in out, "no space is in the alphabet"
    assert row(out, "pioneer_0") == [(1.0, 1.667)] * 2
    assert row(out, "observer_0 (you)") == [(0.667, 1.667)] * 2


def test_the_options_of_the_task_reach_the_game(play):
    out = play("toy", "--seed", "0", "--task-options", "length=5", typed="abcde\nq\n")
    assert re.search(r"\b[a-h]{5}\b", out)
    assert "reward" in out


def test_a_pioneer_of_toy_is_repeated_by_the_script(play):
    out = play("toy", "--seed", "0", "--seat", "pioneer_0", typed="eff\nq\n")
    in_order(out, "query gfe", "(you) is on turn", "reads  gfe>", "> eff", "reads    eff=")
    in_order(out, "answers  eff", "gold answer efg")
    assert row(out, "pioneer_0 (you)") == row(out, "observer_0") == [(0.667, 1.333)] * 2


def test_the_means_are_those_of_the_finished_games(play):
    out = play("toy", "--seed", "0", "--reward-sharing", "-1", typed="efg\n\nhhh\n\n")
    in_order(out, "Mean of 2 games")
    assert row(out, "pioneer_0") == [(1.0, 0.0), (1.0, 1.0), (1.0, 0.5)]
    assert row(out, "observer_0 (you)") == [(1.0, 0.0), (0.0, -1.0), (0.5, -0.5)]
    assert "its own plus -1 times the\nothers'." in out


def test_without_knowledge_transfer_the_partner_is_hidden_until_the_seat_has_answered(play):
    out = play("toy", "--seed", "0", "--no-knowledge-transfer", typed="abc\n")
    before, after = out.split("your response> abc")
    assert "efg" not in before
    assert "reads  =" in before
    in_order(after, "query gfe", "answers  efg")
    blind = play(
        "toy", "--seed", "0", "--seat", "pioneer_0", "--no-knowledge-transfer", typed="a\n"
    )
    assert re.search(r"reads    = .*\n.*answers  [a-h]{3} ", blind)


def test_all_rounds_are_played_and_shown(play):
    out = play("toy", "--seed", "0", "--rounds", "2", typed="abc\nefg\nq\n")
    in_order(
        out,
        *("pioneer_0 (round 1)", "answers  efg", "observer_0 (round 1) (you) is on turn"),
        *("your response> abc", "pioneer_0 (round 2)", "observer_0 (round 2) (you) is on turn"),
        *("reads  efg,abc,efg=", "your response> efg", "gold answer efg"),
        *("pioneer_0", "1.000", "3.000", "1.000"),
        *("observer_0 (you)", "0.000", "3.000", "1.000"),
    )


def test_without_knowledge_transfer_the_partner_is_hidden_until_the_last_round(play):
    options = ("--seed", "0", "--rounds", "2", "--no-knowledge-transfer")
    before, after = play("toy", *options, typed="abc\nabd\n").split("your response> abd")
    assert "efg" not in before
    assert "reads  abc=" in before
    in_order(after, "pioneer_0 (round 1)", "answers  efg", "pioneer_0 (round 2)", "answers  efg")


def test_a_longer_chain_and_a_single_seat_can_be_played(play):
    out = play("toy", "--seed", "0", "--observers", "2", "--seat", "observer_1", typed="efg\n")
    in_order(out, "pioneer_0", "efg", "observer_0", "efg", "observer_1 (you)", "efg,efg=")
    assert row(out, "observer_1 (you)") == [(1.0, 3.0)] * 2
    out = play("toy", "--seed", "0", "--observers", "2", "--seat", "observer_0", typed="hhh\n")
    in_order(out, "> hhh", "observer_1", "reads    efg,hhh=", "answers  hhh")


def test_a_person_alone_waits_for_no_model(play, monkeypatch):
    monkeypatch.setattr("agents.cli.main._load_policy", None)
    for task, text in (("toy", "efg"), ("imdb", " was a joy.")):
        out = play(task, "--seed", "0", "--observers", "0", typed=f"{text}\n")
        assert "partner" not in out
        [(task_reward, paid), _] = row(out, "pioneer_0 (you)")
        assert task_reward == paid != 0


def test_a_partner_is_not_asked_for_tokens_behind_its_end(play, loaded, monkeypatch):
    ids = loaded.backbone.tokenizer(" yes")["input_ids"][1:]
    tokens = iter([*ids, loaded.backbone.tokenizer.eos_token_id])
    policy = SimpleNamespace(
        backbone=loaded.backbone,
        encode=loaded.encode,
        act=lambda observation, generator: (next(tokens), 0.0),
    )
    monkeypatch.setattr("agents.policies.load.load_policy", lambda folder: policy)
    out = play("imdb", typed="a\n")
    assert re.search(r"answers   yes +│\n╰─+╯", out)
    assert next(tokens, None) is None


def test_what_the_tokenizer_cannot_write_is_explained_and_asked_for_again(play):
    out = play("toy", "--seed", "0", typed="xyz\ne f\n\x1b[31m\n[red]\nefg\n")
    assert out.count("Try again.") == 4
    in_order(out, "Expected characters out of 'abcdefgh>,=', got 'x' in 'xyz'", "> efg")
    assert "\x1b" not in out
    assert "in '[red]'" in out
    assert row(out, "observer_0 (you)") == [(1.0, 2.0)] * 2


def test_an_empty_response_is_legal(play):
    out = play("toy", "--seed", "0", typed="\n")
    assert row(out, "observer_0 (you)") == [(0.0, 1.0)] * 2


def test_a_long_text_is_cut_and_shown_as_it_was_played(play):
    out = play("toy", "--seed", "0", typed="efgh\n")
    in_order(out, "> efgh", "Cut after 3 tokens: efg\n")
    assert row(out, "observer_0 (you)") == [(1.0, 2.0)] * 2
    assert "Cut after" not in play("toy", "--seed", "0", typed="efg\n")


@pytest.mark.parametrize("typed", ["", "efg\nq\n", "efg\n QUIT \n", "efg\n\n"])
def test_the_end_of_the_input_and_q_quit_politely(play, typed):
    out = play("toy", "--seed", "0", typed=typed)
    assert out.count("Mean of 1 game") == bool(typed)
    assert out.count("answers  ") == 1 + (typed == "efg\n\n")


def test_equal_seeds_give_equal_games(play):
    first, second, other = (play("toy", "--seed", s, typed="a\n\na\n") for s in "112")
    assert first == second != other


def test_the_partner_samples_as_the_policy_generates(play, loaded):
    out = play("imdb", "--seed", "3", typed=" was a joy.\n")
    query = re.search(r"^query (.+)$", out, re.MULTILINE)[1]
    response = sampled(loaded, query, seed=3)
    prompt = f'I can make this sentence "{query}{response}" more positive: {query}'
    flat = " ".join(out.replace("│", " ").split())
    in_order(
        flat,
        "the embedded model, before training",
        "begin a new word with a space",
        f"query {query}",
        f"answers {response.strip()}",
        f"reads {prompt}",
        "your response> was a joy.",
    )
    assert row(out, "observer_0 (you)")[0][1] == row(out, "pioneer_0")[0][1]
    assert row(out, "observer_0 (you)")[0][0] > 0


def test_a_partner_that_observes_reads_what_the_person_wrote(play, loaded):
    out = play("imdb", "--seed", "3", "--seat", "pioneer_0", typed=" [red]\x1b[2J.\n")
    query = re.search(r"^query (.+)$", out, re.MULTILINE)[1]
    prompt = f'I can make this sentence "{query} [red]\x1b[2J." more positive: {query}'
    flat = " ".join(out.replace("│", " ").split())
    shown = prompt.replace("\x1b", r"\x1b")
    in_order(flat, f"reads {shown}", f"answers {sampled(loaded, prompt, seed=3).strip()}")
    assert "\x1b" not in out


def test_a_full_context_ends_the_response_and_a_longer_prompt_is_refused(
    play, loaded, monkeypatch, capsys
):
    class Long(ToyTask):
        def __init__(self, split: str = "train"):
            self.examples = [Example("word " * words, "a")]
            self.tokenizer = None
            self.max_new_tokens, self.max_prompt_tokens = 100, 400

        def sample(self, rng):
            return self.examples[0]

    monkeypatch.setitem(TASKS, "long", Long)
    words = 240
    prompt = "word " * words + ">"
    room = 256 - len(loaded.backbone.tokenizer(prompt)["input_ids"])
    assert 5 < room < 20
    out = play("long", "--seed", "0", typed="a\n")
    generator = torch.Generator().manual_seed(0)
    [text] = loaded.generate([prompt], max_new_tokens=room, generator=generator).texts
    flat = " ".join(out.replace("│", " ").split())
    in_order(flat, f"answers {' '.join(text.split())} ╰")

    words = 300
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\n"))
    assert main(["play", "long", "--seed", "0"]) == 2
    assert "context of 256 tokens, got a prompt of 304" in capsys.readouterr().err


def test_a_trained_policy_takes_the_other_seat(play, toy_policy):
    out = play("toy", "--seed", "0", "--partner", toy_policy, typed="z\nefg\n")
    assert f"the policy in {toy_policy}" in " ".join(out.split())
    assert "got 'z'" in out, "the game keeps the task's own alphabet"
    policy = load_policy(toy_policy)
    [text] = policy.generate(
        ["gfe>"], max_new_tokens=3, generator=torch.Generator().manual_seed(0)
    ).texts
    in_order(out, f"answers  {text}" if text else "(nothing)", f"reads  {text}=")


def test_a_partner_may_bring_a_tokenizer_of_its_own(play, loaded, tmp_path):
    (tmp_path / "config.json").touch()
    out = play("toy", "--seed", "0", "--partner", str(tmp_path), typed="any text\n")
    assert "Try again" not in out
    assert "begin a new word with a space" in out


def refused(capsys, *argv: str) -> str:
    assert main(["play", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ([], ["TASK"]),
        (["chess"], ["imdb", "toy", "'chess'"]),
        (["toy", "--seat", "observer_1"], ["--seat", "(pioneer_0, observer_0)", "'observer_1'"]),
        (["imdb", "--seat", "observer_0", "--observers", "0"], ["(pioneer_0)", "'observer_0'"]),
        (["imdb", "--observers", "0", "--partner", "agents/assets/model"], ["without observers"]),
        (["imdb", "--split", "valid"], ["(train, test)", "'valid'"]),
        (["imdb", "--observers", "-1"], ["observers", "at least 0", "-1"]),
        (["imdb", "--observers", "many"], ["--observers", "many"]),
        (["imdb", "--seed", "-1"], ["--seed", "at least 0", "-1"]),
        (["imdb", "--reward-sharing", "all"], ["(collective, mean, individual, last)", "'all'"]),
        (["imdb", "--reward-sharing", "nan"], ["finite", "nan"]),
        (["imdb", "--temperatur", "1"], ["--temperatur"]),
        (["imdb", "--partner", "no/such"], ["--partner", "final/llm_0", "no/such"]),
    ],
    ids=" ".join,
)
def test_bad_arguments_are_one_line_before_a_model_is_loaded(capsys, monkeypatch, argv, parts):
    def load(*args, **kwargs):
        raise AssertionError("a model was loaded before the input was checked")

    monkeypatch.setattr("agents.cli.main._load_policy", load)
    error = refused(capsys, *argv)
    for part in parts:
        assert part in error


def test_a_run_instead_of_a_policy_is_told_apart(capsys, tmp_path):
    (tmp_path / "final" / "llm_0").mkdir(parents=True)
    (tmp_path / "config.json").write_text("{}")
    error = refused(capsys, "imdb", "--partner", str(tmp_path))
    assert "--partner to be the folder of a policy" in error
    assert f"name {tmp_path}/final/llm_0" in error


def test_a_partner_that_cannot_read_the_task_is_refused(capsys, toy_policy):
    error = refused(capsys, "imdb", "--partner", toy_policy)
    assert "Expected --partner to be a policy that can read imdb" in error


def test_a_script_needs_gold_answers(monkeypatch, capsys):
    class Unanswered(ToyTask):
        def sample(self, rng):
            return Example(super().sample(rng).query)

    monkeypatch.setitem(TASKS, "unanswered", Unanswered)
    assert main(["play", "unanswered"]) == 2
    assert "Expected --partner: task toy" in capsys.readouterr().err


def test_ctrl_c_at_a_question_is_exit_code_130(monkeypatch, capsys):
    def interrupted(prompt):
        print(prompt, end="")
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    assert main(["play", "toy"]) == 130
    captured = capsys.readouterr()
    assert captured.err == "interrupted\n"
    assert captured.out.endswith("your response> \n")


def test_toy_is_played_without_torch():
    program = (
        "import io, sys; from agents.cli.main import main\n"
        "sys.stdin = io.StringIO('abc'); code = main(['play', 'toy'])\n"
        "print('loaded:', *{'torch', 'transformers'} & set(sys.modules)); sys.exit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.endswith("loaded:\n")


class Seat:
    """A program in a pseudo-terminal, seen through what it writes."""

    def __init__(self, *argv: str):
        pty = pytest.importorskip("pty")
        self.main, side = pty.openpty()
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agents", *argv],
            stdin=side,
            stdout=side,
            stderr=side,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
            start_new_session=True,
        )
        os.close(side)

    def read_until(self, part: str) -> None:
        deadline = time.monotonic() + 120
        while part not in self.text:
            assert time.monotonic() < deadline, self.text
            if not self.read():
                break
        assert part in self.text, self.text

    def read(self) -> bool:
        if not select.select([self.main], [], [], 120)[0]:
            self.process.kill()
            pytest.fail(f"nothing more comes after {self.text!r}")
        try:
            chunk = os.read(self.main, 4096)
        except OSError:  # how Linux says that the other side is closed
            return False
        self.text += re.sub(r"\x1b\[[\d;]*m", "", chunk.decode(errors="replace"))
        return bool(chunk)

    def type(self, text: str) -> None:
        os.write(self.main, text.encode())

    def exit_code(self) -> int:
        while self.read():
            pass
        os.close(self.main)
        return self.process.wait(60)

    @property
    def cursor_is_shown(self) -> bool:
        return self.text.count("\x1b[?25l") == self.text.count("\x1b[?25h")


@pytest.mark.parametrize("moment", ["your response> ", "is on turn"])
def test_ctrl_c_in_a_terminal_leaves_it_usable(moment):
    seat = Seat("play", "toy")
    seat.read_until(moment)
    # Between its prompt and its wait for a key, Python notes a signal and goes on waiting; nobody
    # is as fast as that.
    time.sleep(0.5)
    seat.process.send_signal(signal.SIGINT)
    assert seat.exit_code() == 130
    assert seat.text.rstrip().endswith("interrupted")
    assert "Traceback" not in seat.text
    assert seat.cursor_is_shown


def test_a_terminal_shows_the_partner_token_by_token_and_lets_the_person_edit():
    seat = Seat("play", "toy", "--seed", "0")
    seat.read_until("your response> ")
    for growing in ("answers  e_", "answers  ef_", "answers  efg_"):
        assert growing in seat.text
    assert seat.cursor_is_shown
    seat.type("eff\x7fg\n")
    seat.read_until("again, q = quit> ")
    seat.type("\x04")
    assert seat.exit_code() == 0
    assert "Mean of 1 game" in seat.text
    assert row(seat.text.replace("\r", ""), "observer_0 (you)") == [(1.0, 2.0)] * 2


def test_every_registered_task_can_be_played(play, loaded):
    for task in TASKS:
        if make_task(task).max_prompt_tokens <= loaded.backbone.context:
            assert "Mean of 1 game" in play(task, "--seed", "0", typed="a\n")

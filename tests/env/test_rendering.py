"""What people see of an episode: as text, on a terminal, and on a pipe."""

import contextlib
import copy
import functools
import gc
import io
import os
import pickle
import re
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

import cory_env
from cory_env import rendering
from cory_env.rendering import Screen, visible
from cory_env.types import Example

ABC = {"example": Example("abc", reference="cba")}
A, B, C, END = 1, 2, 3, 0
HOSTILE = "[red]a[/red] :smile: \x1b[2J\x07\x00\u202e\t\n"
HOSTILE_SHOWN = r"[red]a[/red] :smile: \x1b[2J\x07\x00\u202e\t\n"


class Terminal(io.StringIO):
    """A terminal, as far as a live display needs one: it knows what stands on its screen."""

    encoding = "utf-8"

    def isatty(self):
        return True

    @property
    def lines(self):
        """What stands on the screen and above it, without colours."""
        lines, row = [""], 0
        for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", self.getvalue()):
            if part == "\n":
                row += 1
                lines += [""] * (row == len(lines))
            elif part == "\x1b[2K":
                lines[row] = ""
            elif re.fullmatch(r"\x1b\[\d+A", part):
                row -= int(part[2:-1])
                assert row >= 0, "the cursor left the screen"
            elif not part.startswith(("\x1b", "\r")):
                lines[row] += part
        return [line.rstrip() for line in lines]

    @property
    def is_free(self):
        """Whether nothing hides the cursor or stands in the way of print()."""
        text = self.getvalue()
        return text.count("\x1b[?25l") == text.count("\x1b[?25h") and sys.stdout is self


@pytest.fixture
def terminal(monkeypatch):
    terminal = Terminal()
    terminal.console = Console(file=terminal, force_terminal=True, width=60, height=24)
    monkeypatch.setattr(rendering, "_console", lambda: terminal.console)
    monkeypatch.setattr(Screen, "_growing", None)
    return terminal


def on_terminal(test):
    """Run a test in front of its terminal, and find it free again afterwards."""

    @functools.wraps(test)
    def run(**fixtures):
        terminal = fixtures["terminal"]
        # Not by a fixture: pytest puts its own stdout in place when they are done.
        with contextlib.redirect_stdout(terminal):
            test(**fixtures)
            assert terminal.is_free

    return run


def toy(render_mode="human", make=cory_env.env, **options):
    env = make(task="toy", render_mode=render_mode, **options)
    env.reset(options=ABC)
    return env


def play(env, *actions):
    for action in actions:
        env.step(action)


def play_hostile():
    """Play an episode whose query and response are a menace to the terminal."""
    env = cory_env.env(
        "imdb", action_level="response", render_mode="human", observers=0, max_new_tokens=99
    )
    env.reset(options={"example": Example(HOSTILE)})
    env.step(HOSTILE)


def boxed(*lines):
    """The lines between two borders, as a panel of the fixture's width shows them."""
    return [f"│ {line:<54} │" for line in lines]


# Text


def test_the_transcript_shows_a_response_that_still_grows():
    env = toy("ansi")
    assert env.render().splitlines() == ["query: 'abc'", "pioneer_0 reads: 'abc>'"]
    play(env, C, B)
    assert env.render().splitlines()[1:] == [
        "pioneer_0 reads: 'abc>'",
        "pioneer_0 answers so far: 'cb'",
    ]
    play(env, END, C)
    assert env.render().splitlines()[2:] == [
        "pioneer_0 answers: 'cb'",
        "observer_0 reads: 'cb='",
        "observer_0 answers so far: 'c'",
    ]
    play(env, B, A)
    assert env.render().splitlines()[4:] == [
        "observer_0 answers: 'cba' (token limit)",
        "pioneer_0 is paid: 1.66667",
        "observer_0 is paid: 1.66667",
    ]


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("a film, d'été 漢字 👍 …", "utf-8", "a film, d'été 漢字 👍 …"),
        ("\x1b[31m\x07\x00\x7f\x9b", "utf-8", r"\x1b[31m\x07\x00\x7f\x9b"),
        ("\u202eRTL\u2066\u200b\ufeff", "utf-8", r"\u202eRTL\u2066\u200b\ufeff"),
        ("\t\r\v\xa0", "utf-8", r"\t\r\x0b\xa0"),
        ("one\ntwo\n", "utf-8", "one\\n\ntwo\\n\n"),
        ("\ud800", "utf-8", r"\ud800"),
        ("\\x1b", "utf-8", "\\x1b"),
        ("été 漢", "latin-1", r"été \u6f22"),
        ("été", "ascii", r"\xe9t\xe9"),
    ],
)
def test_what_a_screen_would_obey_or_cannot_show_is_spelled_out(text, encoding, shown):
    assert visible(text, encoding) == shown


# A pipe


def test_on_a_pipe_each_line_is_printed_once_and_as_soon_as_it_is_known(capsys):
    env = toy(swap_every=1, reward_sharing="individual")
    assert capsys.readouterr().out == "query: 'abc'\nllm_0 as pioneer_0 reads: 'abc>'\n"
    play(env, C, B)
    assert env.render() is None
    assert capsys.readouterr().out == ""
    play(env, END)
    assert capsys.readouterr().out == (
        "llm_0 as pioneer_0 answers: 'cb'\nllm_1 as observer_0 reads: 'cb='\n"
    )
    play(env, C, B, A)
    assert capsys.readouterr().out == (
        "llm_1 as observer_0 answers: 'cba' (token limit)\n"
        "llm_0 is paid: 0.666667 (task reward 0.666667)\n"
        "llm_1 is paid: 1 (task reward 1)\n"
    )
    play(env, None, None)
    assert env.render() is None
    assert capsys.readouterr().out == ""
    env.reset(options=ABC)
    assert capsys.readouterr().out == "query: 'abc'\nllm_1 as pioneer_0 reads: 'abc>'\n"


def test_a_pipe_gets_no_control_characters(capsys):
    play_hostile()
    out = capsys.readouterr().out
    assert out.isascii()
    assert all(character.isprintable() for character in out.replace("\n", ""))
    assert f"answers: '{HOSTILE_SHOWN}'" in out


def test_a_pipe_that_cannot_hold_a_character_gets_its_number(monkeypatch):
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", newline="\n")
    monkeypatch.setattr(sys, "stdout", pipe)
    env = cory_env.env("imdb", action_level="response", render_mode="human", observers=0)
    env.reset(options={"example": Example("été")})
    env.step("漢")
    lines = pipe.buffer.getvalue().decode("latin-1").splitlines()
    assert lines[0] == "query: 'été'"
    assert lines[2] == r"pioneer_0 answers: '\u6f22'"


@pytest.mark.parametrize("make", [cory_env.raw_env, cory_env.parallel_env, cory_env.gym_env])
def test_all_forms_draw_alike(make, capsys):
    if make is cory_env.gym_env:
        env = toy(make=make, seat="pioneer_0", partner=lambda observation, info: END)
        play(env, C, B, A)
    else:
        env = toy(make=make)
        for token in (C, B, A, END):
            env.step(
                {"pioneer_0": token, "observer_0": token} if hasattr(env, "aec_env") else token
            )
    env.close()
    assert capsys.readouterr().out.splitlines() == [
        "query: 'abc'",
        "pioneer_0 reads: 'abc>'",
        "pioneer_0 answers: 'cba' (token limit)",
        "observer_0 reads: 'cba='",
        "observer_0 answers: ''",
        "pioneer_0 is paid: 1 (task reward 1)",
        "observer_0 is paid: 1 (task reward 0)",
    ]


@pytest.mark.parametrize("make", [cory_env.env, cory_env.raw_env])
def test_before_the_first_reset_there_is_nothing_to_draw(make, capsys):
    env = make("toy", render_mode="human")
    with pytest.raises((RuntimeError, AssertionError), match=r"reset\(\)"):
        env.render()
    env.close()
    assert capsys.readouterr().out == ""


# A terminal


@on_terminal
def test_a_response_grows_in_its_panel_and_stays_when_its_turn_is_over(terminal):
    env = toy()
    query = ["", "query abc"]
    pioneer = "╭─ pioneer_0 is on turn " + "─" * 33 + "╮"
    below = "╰" + "─" * 56 + "╯"
    limit = "╰" + "─" * 42 + " token limit ─╯"
    assert terminal.lines == [*query, pioneer, *boxed("reads    abc>", "answers  _"), below]
    play(env, C, B)
    assert terminal.lines == [*query, pioneer, *boxed("reads    abc>", "answers  cb_"), below]

    play(env, A)
    done = ["╭─ pioneer_0 " + "─" * 44 + "╮", *boxed("reads    abc>", "answers  cba"), limit]
    observer = "╭─ observer_0 is on turn " + "─" * 32 + "╮"
    growing = boxed("reads    cba=", "answers  _")
    assert terminal.lines == [*query, *done, observer, *growing, below]

    play(env, END)
    nothing = boxed("reads    cba=", "answers  (nothing)")
    table = [
        "",
        "  agent        task reward   is paid",
        " ────────────────────────────────────",
        "  pioneer_0          1.000     1.000",
        "  observer_0         0.000     1.000",
        "",
        " A task reward is for one's own response; each is paid the",
        "sum of all.",
        "",
    ]
    second = ["╭─ observer_0 " + "─" * 43 + "╮", *nothing, below]
    assert terminal.lines == [*query, *done, *second, *table]
    assert terminal.is_free


@on_terminal
def test_a_terminal_shows_who_has_which_role(terminal):
    env = toy(swap_every=1, action_level="response")
    assert terminal.lines[2] == "╭─ llm_0 as pioneer_0 is on turn " + "─" * 24 + "╮"
    play(env, "cba", "c")
    env.reset(options=ABC)
    assert any("llm_1 as pioneer_0 is on turn" in line for line in terminal.lines)
    env.close()


@on_terminal
def test_markup_and_control_characters_are_never_interpreted(terminal):
    terminal.console.width = 100
    play_hostile()
    screen = "\n".join(terminal.lines)
    assert screen.count(HOSTILE_SHOWN) == 3  # query, prompt and response
    assert not set(terminal.getvalue()) & set("\x07\x00\u202e\t")
    assert "\x1b[2J" not in terminal.getvalue()


@on_terminal
def test_wide_characters_and_long_words_wrap(terminal):
    env = cory_env.env("imdb", action_level="response", render_mode="human", max_new_tokens=200)
    env.reset(options={"example": Example("Q")})
    env.step("漢字" * 20 + "x" * 70)
    rows = [line for line in terminal.lines if "漢" in line or "xxx" in line]
    text = "".join(line.strip("│").replace("answers", "").strip() for line in rows[:4])
    assert text == "漢字" * 20 + "x" * 70
    assert {len(line) + line.count("漢") + line.count("字") for line in rows[:4]} == {58}
    env.close()


@on_terminal
def test_a_low_terminal_shows_the_end_of_what_grows_and_later_all_of_it(terminal):
    terminal.console.height = 8
    env = cory_env.env("imdb", render_mode="human", observers=0, max_new_tokens=200)
    env.reset(options={"example": Example("Q")})
    ids = env.unwrapped.rules.tokenizer.encode("".join(f"line {i}\n" for i in range(9)))
    play(env, *ids[1:])
    bodies = [line for line in terminal.lines if line.startswith("│")]
    assert [re.search(r"line \d|_", body)[0] for body in bodies] == [
        *("line 5", "line 6", "line 7", "line 8"),
        "_",
    ]
    env.step(env.unwrapped.rules.tokenizer.eos_token_id)
    shown = [line for line in terminal.lines if re.search(r"line \d", line)]
    assert len(shown) == 9


@on_terminal
def test_an_illegal_action_draws_nothing(terminal):
    env = toy()
    before = terminal.getvalue()
    for action in (12, -1, "a"):
        with pytest.raises((ValueError, TypeError)):
            env.step(action)
    assert terminal.getvalue() == before
    env.close()


@on_terminal
def test_close_gives_the_terminal_back_and_playing_goes_on_below(terminal):
    env = toy()
    play(env, C)
    assert not terminal.is_free
    env.close()
    assert terminal.is_free
    left = terminal.lines
    env.close()
    play(env, B, A)
    assert terminal.lines[: len(left) - 1] == left[:-1]
    assert boxed("answers  cba")[0] in terminal.lines
    env.close()


@on_terminal
@pytest.mark.parametrize("make", [cory_env.env, cory_env.parallel_env, cory_env.gym_env])
def test_every_form_gives_the_terminal_back(terminal, make):
    options = {"seat": "pioneer_0"} if make is cory_env.gym_env else {}
    env = toy(make=make, **options)
    assert not terminal.is_free
    env.close()
    assert terminal.is_free


@on_terminal
def test_what_the_user_prints_stands_above_the_panel(terminal):
    env = toy()
    print("mine")
    play(env, C)
    assert terminal.lines[2] == "mine"
    assert terminal.lines[-2] == boxed("answers  c_")[0]
    env.close()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
@on_terminal
def test_a_copy_draws_for_itself(terminal, copied):
    env = toy()
    play(env, C)
    twin = copied(env)
    play(env, B)
    assert boxed("answers  cb_")[0] in terminal.lines
    env.close()
    start = len(terminal.lines)
    play(twin, A)
    drawn = terminal.lines[start - 1 :]
    assert drawn[1] == "query abc"
    assert drawn[4] == boxed("answers  ca_")[0]
    twin.close()


@on_terminal
def test_a_second_environment_prints_lines_while_the_first_has_the_terminal(terminal):
    first, second = toy(make=cory_env.raw_env), toy(make=cory_env.raw_env)
    for token in (C, B, A, A, A, A):
        play(first, token)
        play(second, token)
    lines = terminal.lines
    assert sum("pioneer_0 is on turn" in line for line in lines) == 0
    assert [line for line in lines if ": '" in line] == [
        "query: 'abc'",
        "pioneer_0 reads: 'abc>'",
        "pioneer_0 answers: 'cba' (token limit)",
        "observer_0 reads: 'cba='",
        "observer_0 answers: 'aaa' (token limit)",
    ]
    assert lines.count("query abc") == 1
    assert lines.count(boxed("answers  cba")[0]) == 1
    second.reset(options=ABC)
    assert terminal.lines.count("query abc") == 2, "the terminal is free: panels again"
    second.close()


@on_terminal
def test_an_environment_whose_terminal_was_taken_puts_its_finished_panels_above(terminal):
    first = toy()
    first.close()
    second = toy()
    play(second, B)
    play(first, C, B, A)
    assert not any("observer_0 is on turn" in line for line in terminal.lines)
    done, growing = (terminal.lines.index(boxed(f"answers  {text}")[0]) for text in ("cba", "b_"))
    assert done < growing == len(terminal.lines) - 2
    second.close()


@on_terminal
def test_the_first_environment_may_close_before_or_after_the_second(terminal):
    for order in (0, 1), (1, 0):
        envs = [toy() for _ in order]
        play(envs[1], C)
        for i in order:
            envs[i].close()
        assert terminal.is_free


@on_terminal
def test_a_forgotten_environment_gives_the_terminal_back(terminal):
    env = toy()
    assert not terminal.is_free
    del env
    gc.collect()
    assert terminal.is_free


@on_terminal
def test_a_new_episode_begins_below_one_that_was_left(terminal):
    env = toy()
    play(env, C)
    env.reset(options=ABC)
    assert terminal.lines.count("query abc") == 2
    assert boxed("answers  c_")[0] in terminal.lines
    env.close()


@on_terminal
def test_a_dumb_terminal_gets_lines(monkeypatch, terminal):
    monkeypatch.setattr(terminal.console, "is_interactive", False)  # TERM=dumb
    toy()
    assert terminal.lines == ["query: 'abc'", "pioneer_0 reads: 'abc>'", ""]


def test_a_pipe_gets_lines_even_where_colours_are_forced(terminal, capsys):
    toy()
    assert capsys.readouterr().out == "query: 'abc'\npioneer_0 reads: 'abc>'\n"
    assert terminal.getvalue() == ""


@on_terminal
@pytest.mark.parametrize(
    ("sharing", "words"),
    [
        ("collective", "each is paid the sum of all."),
        ("mean", "each is paid the mean of all."),
        ("individual", "each is paid its own."),
        (-0.5, "each is paid its own plus -0.5 times the others'."),
    ],
)
def test_the_rewards_come_with_the_reason(terminal, sharing, words):
    terminal.console.width = 100
    env = toy(action_level="response", reward_sharing=sharing)
    play(env, "cba", "a")
    assert terminal.lines[-2] == f" A task reward is for one's own response; {words}"


def test_ctrl_c_leaves_the_terminal_usable():
    pty = pytest.importorskip("pty")
    program = (
        "import time, cory_env\n"
        "env = cory_env.env('toy', render_mode='human')\n"
        "env.reset(seed=0)\n"
        "env.step(1)\n"
        "time.sleep(60)\n"
    )
    main, side = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=side, stdout=side, stderr=side, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(side)
    output, deadline = b"", time.monotonic() + 120
    while "a_" not in (text := without_colours(output)) and time.monotonic() < deadline:
        output += os.read(main, 4096)
    process.send_signal(signal.SIGINT)
    while chunk := read_rest(main):
        output += chunk
    assert process.wait(60) != 0
    os.close(main)
    after = without_colours(output)[len(text) :]
    assert "KeyboardInterrupt" in after
    assert (text + after).count("\x1b[?25l") == after.count("\x1b[?25h") == 1


def without_colours(output):
    return re.sub(r"\x1b\[[\d;]*m", "", output.decode(errors="replace"))


def read_rest(main):
    try:
        return os.read(main, 4096)
    except OSError:  # how Linux says that the other side is closed
        return b""

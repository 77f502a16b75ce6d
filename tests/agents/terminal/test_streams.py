"""What is shown ends nothing: streams that cannot encode, readers that go away, streams closed."""

from __future__ import annotations

import io
import os
import sys

import pytest
from rich.console import Console

from agents.cli import main as cli
from agents.terminal.interrupts import Interrupted
from agents.terminal.streams import LastingStream, go_on, lasting_streams, stop


def ignore() -> None:
    """Do nothing about a reader that is gone."""


@pytest.fixture
def unread():
    """A text stream that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        yield stream


def test_what_a_stream_cannot_encode_becomes_a_question_mark():
    raw = io.BytesIO()
    stream = LastingStream(io.TextIOWrapper(raw, encoding="ascii"), ignore)
    Console(file=stream).print("1 ± 2 \N{REPLACEMENT CHARACTER} 日本 █", highlight=False)
    print("naïve", file=stream, flush=True)
    assert raw.getvalue().decode() == "1 ? 2 ? ?? ?\nna?ve\n"


def test_a_reader_that_goes_away_is_noticed_once(unread):
    losses = []
    stream = LastingStream(unread, lambda: losses.append("lost"))
    for _ in range(3):
        Console(file=stream).print("a line")
        print("another", file=stream, flush=True)
    assert losses == ["lost"]
    unread.flush()  # what was in its buffer is gone as well


def test_the_innermost_context_says_what_is_done_about_it(unread, monkeypatch):
    monkeypatch.setattr(sys, "stdout", unread)
    with lasting_streams(stop), lasting_streams(ignore):
        print("goes on", flush=True)
    assert sys.stdout is unread


def test_a_command_of_seconds_stops_with_its_reader(unread, monkeypatch):
    monkeypatch.setattr(sys, "stdout", unread)
    with lasting_streams(ignore), lasting_streams(stop), pytest.raises(Interrupted):
        print("stops", flush=True)


def test_a_run_says_on_stderr_that_it_goes_on(unread, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", unread)
    with lasting_streams(go_on):
        print("a line", flush=True)
        print("a line", flush=True)
    assert capsys.readouterr().err == "The output is not read any more: going on without it.\n"


@pytest.mark.parametrize("command", ["compare", "evaluate", "report", "merge", "push", "play"])
def test_every_command_ends_as_filters_do(unread, monkeypatch, capsys, command):
    def prints(argv):
        print("a result")
        return 0

    monkeypatch.setattr(sys, "stdout", unread)
    monkeypatch.setattr(cli, f"_{command}", prints)
    assert cli.main([command]) == 141
    assert capsys.readouterr().err == ""


def test_help_ends_so_too(unread, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", unread)
    assert cli.main(["train", "--help"]) == 141
    assert capsys.readouterr().err == ""


def test_closed_streams_are_empty_ones(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    with lasting_streams(stop):
        print("nobody reads it", flush=True)
        print("nor this", file=sys.stderr, flush=True)
        Console().print("or that")
        with pytest.raises(EOFError):
            input()

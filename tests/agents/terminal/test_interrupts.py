"""Signals that ask a process to end: one saves, two end at once."""

from __future__ import annotations

import os
import signal

import pytest

from agents.terminal import interrupts
from agents.terminal.interrupts import Interrupted, deferred_interrupts, prompt_interrupts

ENDING = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


@pytest.mark.parametrize("number", ENDING)
def test_the_first_signal_waits_and_another_ends_at_once(number, monkeypatch):
    before = [signal.getsignal(n) for n in ENDING]
    with deferred_interrupts() as caught:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # what a launcher passes on at the same moment
        assert caught == [number]
        monkeypatch.setattr(interrupts, "_SAME_S", 0.0)
        with pytest.raises(Interrupted) as error:
            os.kill(os.getpid(), signal.SIGTERM)
    assert error.value.number == signal.SIGTERM
    assert [signal.getsignal(n) for n in ENDING] == before


@pytest.mark.parametrize("number", ENDING)
def test_without_anything_to_save_a_signal_ends_at_once(number):
    with pytest.raises(Interrupted) as error, prompt_interrupts():
        os.kill(os.getpid(), number)
    assert error.value.number == number


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="POSIX")
def test_what_nohup_keeps_away_stays_away():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with prompt_interrupts(), deferred_interrupts() as caught:
            os.kill(os.getpid(), signal.SIGHUP)
        assert caught == []
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)

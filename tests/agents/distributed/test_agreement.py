"""Ranks agree before they train: an error, a difference or an absence of one ends all in one line.

Ranks are threads here, which share a store in memory; tests/e2e/test_hosts.py has real ones.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from torch.distributed import HashStore

from agents.distributed import agreement
from agents.distributed.agreement import agreed, expect_alike, of_first
from agents.errors import EngineError, ProcessError

Ranks = Callable[..., list[Any]]


@pytest.fixture
def ranks(monkeypatch) -> Ranks:
    """Run one function per rank at the same time, and return what each returns or raises."""
    local = threading.local()
    monkeypatch.setattr(agreement, "_rank", lambda: local.rank)
    monkeypatch.setattr(agreement, "_steps", _OwnCount(local))

    def run(*functions: Callable[[], Any]) -> list[Any]:
        store = HashStore()
        monkeypatch.setattr(agreement, "_store", lambda patience: store)
        monkeypatch.setattr(agreement, "_size", lambda: len(functions))
        found: list[Any] = [None] * len(functions)

        def one(rank: int) -> None:
            local.rank, local.steps = rank, itertools.count()
            try:
                found[rank] = functions[rank]()
            except Exception as error:
                found[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(functions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return found

    return run


class _OwnCount:
    """The number of a rank's next step."""

    def __init__(self, local: Any):
        self._local = local

    def __next__(self) -> int:
        return next(self._local.steps)


def fail(text: str, kind: type[Exception] = ValueError) -> Callable[[], Any]:
    def own() -> None:
        raise kind(text)

    return own


def test_ranks_that_all_succeed_go_on_with_their_own(ranks):
    found = ranks(*(lambda n=n: agreed("it", lambda: n) for n in range(3)))
    assert found == [0, 1, 2]


@pytest.mark.parametrize("kind", [ValueError, OSError, EngineError])
def test_an_error_of_one_rank_is_raised_on_all_with_its_name(ranks, kind):
    found = ranks(
        lambda: agreed("it", lambda: 0),
        lambda: agreed("it", fail("Expected a, got\n b.", kind)),
        lambda: agreed("it", lambda: 2),
    )
    assert [type(error).__mro__[1] for error in found] == [ValueError] * 3
    texts = {str(error) for error in found}
    assert len(texts) == 1
    assert "process 1 on " in min(texts)
    assert min(texts).endswith(": Expected a, got b.")


def test_an_error_of_all_ranks_is_said_as_of_one_process(ranks):
    found = ranks(*[lambda: agreed("it", fail("Expected a, got b."))] * 2)
    assert [str(error) for error in found] == ["Expected a, got b."] * 2


def test_a_fault_of_the_code_is_raised_where_it_is(ranks):
    with pytest.raises(ZeroDivisionError):
        raise ranks(lambda: agreed("it", lambda: 1 // 0))[0]


def test_what_the_first_rank_alone_knows_reaches_all(ranks):
    found = ranks(
        lambda: of_first("it", lambda: {"a": [1, None]}),
        lambda: of_first("it", fail("never called")),
    )
    assert found == [{"a": [1, None]}] * 2
    found = ranks(
        lambda: of_first("it", fail("Expected a run.")),
        lambda: of_first("it", fail("never called")),
    )
    assert all("Expected a run." in str(error) for error in found)
    assert all(isinstance(error, ValueError) for error in found)


def test_an_error_within_a_step_ends_the_step(ranks):
    def own() -> Any:
        return agreed("outer", lambda: of_first("inner", fail("Expected a run.")))

    started = time.monotonic()
    found = ranks(own, own)
    assert all("Expected a run." in str(error) for error in found)
    # Nobody waits for a second report of it.
    assert time.monotonic() - started < agreement.PATIENCE / 2


def test_a_rank_that_reads_of_an_error_within_a_step_does_not_report_it_again(ranks):
    found = ranks(
        lambda: agreed("outer", lambda: of_first("inner", lambda: 1)),
        lambda: agreed("outer", fail("Expected a flag.")),
    )
    texts = {str(error) for error in found}
    assert len(texts) == 1
    assert min(texts).count("process") == 1


def test_values_that_differ_are_named(ranks):
    def own(seed: int, rate: float = 0.1) -> Callable[[], None]:
        return lambda: expect_alike("the run", lambda: {"seed": seed, "rate": rate})

    assert ranks(own(1), own(1), own(1)) == [None] * 3
    for error in ranks(own(1), own(1), own(2)):
        assert isinstance(error, ValueError)
        assert "the run to be the same for all processes, got seed 1 for process 0 and 2 for " in (
            str(error)
        )
        assert "process 2" in str(error)


def test_a_rank_that_does_not_come_is_named(ranks):
    found = ranks(lambda: agreed("it", lambda: 0, patience=0.2), lambda: None)
    assert isinstance(found[0], ProcessError)
    assert "Expected 2 processes to begin within 0.2 s, but process 1 did not come (it)" in str(
        found[0]
    )


def test_ranks_that_do_different_things_are_told_so(ranks):
    found = ranks(lambda: agreed("a", lambda: 0), lambda: agreed("b", lambda: 0))
    for error in found:
        assert isinstance(error, ProcessError)
        assert "got a of process 0 and b of process 1" in str(error)


def test_one_process_waits_for_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(agreement, "_exchange", fail("asked"))
    assert agreed("it", lambda: 3) == 3
    assert of_first("it", lambda: 4) == 4
    expect_alike("it", fail("never called"))
    with pytest.raises(EngineError, match="mine"):
        agreed("it", fail("mine", EngineError))

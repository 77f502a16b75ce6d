"""The matrix of settings finds its tests, goes on where it was cut, and says what failed."""

import json
from types import SimpleNamespace

from tests import portability
from tests.portability import SETTING, files_of_numbers, fingerprint, table


def test_all_that_trains_or_compares_numbers_is_found():
    names = {path.rsplit("test_", 1)[1].removesuffix(".py") for path in files_of_numbers()}
    assert names >= {
        "golden",
        "learning",
        "gradients",
        "kernels",
        "llm",
        "ppo",
        "precision",
        "world",
    }
    assert not names & {"tables", "answer", "game"}


def test_what_has_passed_is_left_out_until_a_source_changes(monkeypatch, tmp_path):
    log = tmp_path / "log.jsonl"
    monkeypatch.setattr(portability, "LOG", log)
    monkeypatch.setenv(SETTING, "avx2")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # as where all workers report to
    item = SimpleNamespace(nodeid="tests/test_a.py::test_b")
    dropped = []
    config = SimpleNamespace(
        hook=SimpleNamespace(pytest_deselected=lambda items: dropped.extend(items))
    )

    def left() -> bool:
        items = [item]
        portability.pytest_collection_modifyitems(config, items)  # type: ignore[arg-type]
        return bool(items)

    def ends(*, failed: bool) -> None:
        report = SimpleNamespace(when="call", failed=failed, nodeid=item.nodeid, duration=1.0)
        portability.pytest_runtest_logreport(report)  # type: ignore[arg-type]

    assert left()
    ends(failed=True)
    assert left()
    assert "| 0 | tests/test_a.py::test_b | 1 |" in table(["avx2"])
    ends(failed=False)
    assert not left()
    assert dropped == [item]
    assert "| 1 | 0 | 1 |" in table(["avx2"])
    monkeypatch.setenv(SETTING, "plain")
    assert left()
    monkeypatch.setenv(SETTING, "avx2")
    log.write_text(log.read_text().replace(json.dumps(fingerprint()), '"an earlier state"'))
    assert left()

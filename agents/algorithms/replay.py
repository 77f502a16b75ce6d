"""What a policy may learn from again: prompts with responses, as token ids.

Nothing in it changes: adding returns another one, so that an iteration that fails can go back to
what there was before. All processes hold the same rows, so that a run may go on with another number
of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from agents.types import TokenBatch

T = TypeVar("T")

_IDS = np.int32


class Item(NamedTuple):
    """A response to a prompt: the bytes of their token ids."""

    prompt: bytes
    response: bytes

    @classmethod
    def of(cls, prompt: Sequence[int], response: Sequence[int]) -> Item:
        """Return an item of token ids."""
        return cls(*(np.asarray(ids, _IDS).tobytes() for ids in (prompt, response)))

    @property
    def prompt_ids(self) -> list[int]:
        """The prompt."""
        return np.frombuffer(self.prompt, _IDS).tolist()

    @property
    def response_ids(self) -> list[int]:
        """The response, with its end token."""
        return np.frombuffer(self.response, _IDS).tolist()


def items_of(tokens: TokenBatch) -> list[Item]:
    """Return the rows of a batch."""
    sides = (
        (tokens.prompt_ids, tokens.prompt_mask),
        (tokens.response_ids, tokens.response_mask),
    )
    rows = zip(*(zip(ids.cpu(), mask.cpu(), strict=True) for ids, mask in sides), strict=True)
    return [Item.of(*(ids[kept].tolist() for ids, kept in row)) for row in rows]


@dataclass(frozen=True, slots=True)
class Replay:
    """Items, the oldest first."""

    items: tuple[Item, ...] = ()

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def add(self, items: Iterable[Item], capacity: int) -> Replay:
        """Return a replay with new items behind the old ones.

        Args:
            items: in an order that is the same on all processes.
            capacity: how many to keep at most, the latest; >= 1.
        """
        return Replay((*self.items, *items)[-capacity:])

    def tensors(self) -> dict[str, Tensor]:
        """Return the items as flat int32 tensors of ids and of lengths, by name."""
        found: dict[str, Tensor] = {}
        for name in Item._fields:
            parts: list[bytes] = [getattr(item, name) for item in self.items]
            lengths = [len(part) // _IDS().itemsize for part in parts]
            found[f"{name}_ids"] = torch.from_numpy(np.frombuffer(b"".join(parts), _IDS).copy())
            found[f"{name}_lengths"] = torch.tensor(lengths, dtype=torch.int32)
        return found

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the replay of what `tensors` returned."""
        sides = []
        for name in Item._fields:
            lengths = tensors[f"{name}_lengths"].tolist()
            rows = tensors[f"{name}_ids"].cpu().split(lengths) if lengths else ()
            sides.append([row.numpy().astype(_IDS).tobytes() for row in rows])
        return cls(tuple(Item(*row) for row in zip(*sides, strict=True)))


def whole(items: Sequence[T], multiple: int) -> list[T]:
    """Return every item once, and the latest ones again until they are a multiple.

    Args:
        items: the oldest first; none stay none.
        multiple: of how many; >= 1.
    """
    rounds, rest = divmod(-len(items) % multiple, max(1, len(items)))
    return [*items, *[*items] * rounds, *items[len(items) - rest :]]


def token_batch(items: Sequence[Item], pad: int, device: torch.device) -> TokenBatch:
    """Return items as a batch: prompts padded on the left, responses on the right.

    Args:
        items: B of them, at least one.
        pad: the id to fill up with.
        device: where to put it.
    """
    prompts, responses = [i.prompt_ids for i in items], [i.response_ids for i in items]
    prompt_ids, prompt_mask = _padded(prompts, pad, device, left=True)
    response_ids, response_mask = _padded(responses, pad, device, left=False)
    return TokenBatch(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        response_ids=response_ids,
        response_mask=response_mask,
    )


def _padded(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device, *, left: bool
) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for place, row in enumerate(rows):
        where = slice(width - len(row), None) if left else slice(len(row))
        ids[place, where] = torch.tensor(row, dtype=torch.long)
        mask[place, where] = True
    return ids.to(device), mask.to(device)

"""The recipes' mathematics on small inputs; their `evaluate` commands measure what they made."""

from __future__ import annotations

import math
import re
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cory_env import word_problems
from recipes import language_model, reviews


def test_chunked_cross_entropy_equals_torch_in_value_and_gradient():
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(10, 4, generator=generator), torch.randn(7, 4, generator=generator)
    targets = torch.randint(0, 7, (10,), generator=generator)
    results = []
    for chunk in (3, None):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if chunk is None:
            loss = torch.nn.functional.cross_entropy(h @ w.t(), targets)
        else:
            loss = language_model.LinearCrossEntropy.apply(h, w, targets, chunk)
        (2 * loss).backward()
        results.append((loss.detach(), h.grad, w.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_batches_depend_on_seed_and_step_alone_and_an_epoch_shows_every_window_once():
    args = SimpleNamespace(windows=7, seed=3)
    streams = np.arange(6 * 256 + 1, dtype=np.uint16), np.arange(256 + 1, dtype=np.uint16)
    first, again = (language_model.batch_at(4, args, *streams) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[0][:, 1:], first[1][:, :-1])
    inputs, _ = language_model.batch_at(0, args, *streams)
    assert sorted((inputs[:6, 0] // 256).tolist()) == list(range(6))
    assert not torch.equal(inputs, language_model.batch_at(1, args, *streams)[0])


def test_learning_rate_warms_up_holds_and_falls_to_zero():
    rates = [language_model.rate_at(step, 1000) for step in (0, 49, 300, 600, 800, 1000)]
    assert rates == pytest.approx([0.02, 1, 1, 1, 0.5, 0])


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_a_deeper_model_begins_as_the_one_that_it_grows_from(layers):
    torch.manual_seed(0)
    start, grown = (language_model.build_model(0, count) for count in (2, layers))
    ids = torch.arange(24).view(2, 12)
    before = grown(ids).logits
    language_model.grow(grown, start)
    expected, found = start(ids).logits, grown(ids).logits
    assert not torch.allclose(before, expected, atol=1e-2)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)  # they add exact zeros
    found.square().mean().backward()
    for layer in grown.model.layers:
        assert float(layer.mlp.down_proj.weight.grad.abs().max()) > 0, "every layer can learn"


def test_a_model_grows_into_no_smaller_one_and_not_over_itself(tmp_path):
    small, large = (language_model.build_model(0, count) for count in (1, 2))
    with pytest.raises(ValueError, match="at least the 2 layers"):
        language_model.grow(small, large)
    args = language_model.Train(data=tmp_path, work=tmp_path, start=tmp_path, out=tmp_path / ".")
    with pytest.raises(ValueError, match="pass --out"):
        language_model.train(args)


def test_an_interrupted_training_goes_on_with_its_optimisers(tmp_path):
    args = language_model.Train(data=tmp_path, layers=1)
    first, second = (language_model.Trainer(0, args) for _ in range(2))
    assert second.load(tmp_path) == 0, "there is nothing to take up"
    generator = torch.Generator().manual_seed(0)

    def step(trainer, gradients):
        for parameter, gradient in zip(trainer.master.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        for optimizer in trainer.optimizers:
            optimizer.step()

    gradients = [
        [torch.randn(p.shape, generator=generator) for p in first.master.parameters()]
        for _ in range(2)
    ]
    step(first, gradients[0])
    first.save(tmp_path, 1)
    assert second.load(tmp_path) == 1
    for trainer in (first, second):
        step(trainer, gradients[1])
    for one, other in zip(first.master.parameters(), second.master.parameters(), strict=True):
        assert torch.equal(one, other)


class ByteStub:
    """A tokenizer of one token per byte."""

    eos_token_id = 256

    def __call__(self, text):
        return {"input_ids": [256, *text.encode()]}


@pytest.mark.parametrize("length", [0, 1, 254, 255, 256, 257, 1000])
def test_windows_predict_every_token_of_a_review_once(length):
    windows = list(language_model.review_windows(ByteStub(), ["x" * length]))
    assert sum(len(window) - 1 for window in windows) == length + 1, "each byte and the end"
    assert max(map(len, windows)) <= 257


def test_a_uniform_model_needs_eight_bits_per_byte_and_the_end():
    def uniform(input_ids):
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 257))

    texts = ["hello", "x" * 400, "é"]
    found = language_model.bits_per_byte(ByteStub(), uniform, texts)
    num_bytes = 5 + 400 + 2
    assert found == pytest.approx((num_bytes + 3) * math.log2(257) / num_bytes)


def test_html_breaks_become_spaces():
    assert reviews.clean("One.<br /><br />Two  <br>three\n") == "One. Two three"


def test_a_missing_data_folder_is_one_clear_line(tmp_path: Path):
    with pytest.raises(SystemExit, match="--data"):
        reviews.read_reviews(tmp_path, "train")


@pytest.mark.parametrize("difficulty", word_problems.DIFFICULTIES)
@pytest.mark.parametrize("wording", word_problems.WORDINGS)
def test_the_steps_of_every_word_problem_are_right_and_lead_to_the_answer(difficulty, wording):
    rng = np.random.default_rng(difficulty)
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
    for _ in range(500):
        problem = word_problems.word_problem(rng, difficulty, wording)
        steps, _, answer = problem.reference.partition(" #### ")
        last = None
        for step in steps.split("; "):
            left, sign, right, result = re.fullmatch(r"(\d+) (.) (\d+) = (\d+)", step).groups()
            assert last is None or int(left) == last
            last = operations[sign](int(left), int(right))
            assert last == int(result) > 0
            assert sign != "/" or int(left) % int(right) == 0
        assert last == int(answer)
        assert len(steps.split("; ")) == difficulty
        assert problem.query.endswith("?")


def test_word_problems_are_seeded_and_their_documents_have_the_prompt_format():
    texts = [
        list(islice(word_problems.pretraining_texts(np.random.default_rng(1)), 200))
        for _ in range(2)
    ]
    assert texts[0] == texts[1]
    form = r"Question: .*\?( Reference: .* #### \d+)? Answer: .* #### \d+"
    assert all(re.fullmatch(form, text) for text in texts[0])
    assert 20 < sum("Reference:" in text for text in texts[0]) < 80


def test_an_unknown_difficulty_is_refused():
    with pytest.raises(ValueError, match="difficulty"):
        word_problems.word_problem(np.random.default_rng(0), 9)
    with pytest.raises(ValueError, match="wording"):
        word_problems.word_problem(np.random.default_rng(0), 1, "old")

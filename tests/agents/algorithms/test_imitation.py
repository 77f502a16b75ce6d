"""Expert iteration and return-conditioned RL: what is taken, what is fitted, and from where."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rich.console import Console

from agents import TrainConfig, train
from agents.algorithms.imitation import PATIENCE
from agents.algorithms.replay import Item, whole
from agents.evaluation.samples import references
from agents.parts import Parts
from agents.policies.llm import response_hidden
from agents.records.checkpoint import load_checkpoint
from agents.records.folder import RunFolder
from agents.training.trainer import Trainer
from tests.agents.training.test_trainer import assert_resuming_is_exact

QUIET = Console(quiet=True)
ALL = {"accept": "0", "finished": False, "per_query": 8}


def play(config: TrainConfig, rewards: list[float] | None = None):
    """Return a trainer, what it has played, and what it has prepared of that."""
    trainer = Trainer(config)
    rollout = trainer.collect(trainer.assign(0))
    if rewards:
        turns = [replace(turn, task_rewards=torch.tensor(rewards)) for turn in rollout.turns]
        rollout = replace(rollout, turns=tuple(turns))
    return trainer, rollout, trainer.prepare(rollout)


def items(trainer: Trainer, name: str) -> tuple[Item, ...]:
    return trainer.algorithm.replays[name].items


def texts(trainer: Trainer, name: str) -> list[str]:
    """What stands before each response that is imitated."""
    decode = trainer.policies[name].backbone.tokenizer.decode
    return [decode(item.prompt_ids) for item in items(trainer, name)]


@pytest.fixture
def imitating(toy_config):
    def make(algorithm: str = "expert_iteration", **changes) -> TrainConfig:
        return toy_config(algorithm=algorithm, **{**ALL, "learn_every": 1, **changes})

    return make


def test_good_responses_are_taken_behind_the_prompts_they_were_given_to(imitating):
    config = imitating(accept="1.0", observers=0)
    trainer, rollout, _ = play(config, [1, 0, 1, 0.5, 0, 0, 0, 2])
    (turn,) = rollout.turns
    ids = turn.tokens.response_ids
    kept = [ids[row][turn.tokens.response_mask[row]].tolist() for row in (0, 2, 7)]
    assert [item.response_ids for item in items(trainer, "llm_0")] == kept
    prompt = turn.tokens.prompt_ids[0][turn.tokens.prompt_mask[0]].tolist()
    assert items(trainer, "llm_0")[0].prompt_ids == prompt
    figures = trainer.algorithm.figures("llm_0")
    assert figures == {"good": 3 / 8, "coverage": 1.0, "buffer": 3}


@pytest.mark.parametrize(
    ("rewards", "taken"),
    [
        ([1.0, 2, 3, 4, 5, 6, 7, 8], [6, 7]),
        # Where most earn nothing, nothing is not among the best.
        ([0.0, 0, 0, 1, 0, 0, 0, 0], [3]),
        ([1.0] * 8, []),
    ],
)
def test_the_best_share_is_that_of_the_iteration(imitating, rewards, taken):
    trainer, _, _ = play(imitating(accept="top:0.25", observers=0))
    assert trainer.algorithm._good(torch.tensor(rewards)).nonzero()[:, 0].tolist() == taken


def test_so_many_different_ones_are_taken_of_a_query(imitating):
    config = imitating(observers=0, group_size=4, per_query=2, max_new_tokens=3)
    trainer, rollout, _ = play(config)
    tokens = rollout.turns[0].tokens
    expected = []
    for start in (0, 4):
        rows = [tuple(tokens.response_ids[row].tolist()) for row in range(start, start + 4)]
        expected += list(dict.fromkeys(rows))[:2]
    found = [tuple(item.response_ids) for item in items(trainer, "llm_0")]
    assert len(found) == len(expected)


def test_an_unfinished_response_is_not_taken_and_the_user_is_told(imitating):
    trainer = Trainer(imitating(finished=True, learn_every=3, observers=0))
    no_token = torch.tensor([-1])
    trainer.policies["llm_0"].backbone.stop_ids = no_token  # as where answers fill the limit
    lines = []
    for iteration in range(PATIENCE + 2):
        row = trainer.iterate(iteration)
        lines.append(trainer.algorithm.warning())
    assert row["llm_0/good"] == 1.0
    assert row["llm_0/coverage"] == row["llm_0/buffer"] == row["llm_0/nll"] == 0.0
    assert [bool(line) for line in lines] == [i + 1 == PATIENCE for i in range(PATIENCE + 2)]
    assert "pass --no-finished" in lines[PATIENCE - 1]


def test_a_bound_that_nothing_reaches_is_told_too_and_shown(imitating):
    shown = Console(record=True, width=200)
    config = imitating(accept="9", iterations=PATIENCE, observers=0, learn_every=1)
    train(config, console=shown)
    assert "llm_0 has nothing to imitate" in (text := shown.export_text())
    assert "none earns 9" in text
    assert "pass a lower --accept, such as top:0.25" in text


def test_the_policy_learns_at_the_end_of_a_round_only(imitating):
    trainer = Trainer(imitating(learn_every=3))
    before = {k: t.clone() for k, t in trainer.learner.state()[0].items()}
    rows = [trainer.iterate(iteration) for iteration in range(2)]
    after = trainer.learner.state()[0]
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [row["llm_0/nll"] for row in rows] == [0.0, 0.0]
    assert trainer.iterate(2)["llm_0/nll"] > 0
    after = trainer.learner.state()[0]
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_the_loss_is_the_mean_negative_log_likelihood_of_the_tokens(imitating):
    trainer, _, prepared = play(imitating(observers=0))
    policy = trainer.policies["llm_0"]
    batch = prepared[0].batch
    assert len(batch) == 8
    output = trainer.algorithm.loss("llm_0", batch)
    log_probs = []
    for item in items(trainer, "llm_0"):
        ids = torch.tensor([item.prompt_ids + item.response_ids])
        logits = policy.backbone.models["llm_0"](ids).logits[0].log_softmax(-1)
        start = len(item.prompt_ids)
        log_probs += [logits[start + t - 1, ids[0, start + t]] for t in range(len(ids[0]) - start)]
    # All eight are different: no row is there twice.
    assert len(items(trainer, "llm_0")) == 8
    torch.testing.assert_close(output.loss, -torch.stack(log_probs).mean(), rtol=1e-4, atol=1e-5)
    assert output.loss == output.metrics["nll"]


def test_log_probs_are_those_of_the_scores(imitating):
    trainer, rollout, _ = play(imitating(observers=0, temperature=0.7, top_p=0.8))
    policy, tokens = trainer.policies["llm_0"], rollout.turns[0].tokens
    scores = policy.score(tokens, response_hidden(policy.backbone, None, tokens))
    torch.testing.assert_close(policy.log_probs(tokens), scores.log_probs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("distill", "count"), [("own", 8), ("solo", 8), ("both", 16)])
def test_an_observer_is_imitated_behind_what_it_read_or_behind_the_query(imitating, distill, count):
    trainer, rollout, _ = play(imitating(distill=distill))
    own = [f"{p}" for p in rollout.turns[1].prompts]
    solo = [f"{p}" for p in rollout.turns[0].prompts]
    expected = {"own": set(own), "solo": set(solo), "both": {*own, *solo}}[distill]
    stripped = {text.replace("<eos>", "") for text in texts(trainer, "llm_1")}
    assert stripped == expected
    assert len(items(trainer, "llm_1")) <= count
    assert set(texts(trainer, "llm_0")) <= set(solo)


def test_a_policy_goes_back_to_where_the_run_began(imitating):
    trainer = Trainer(imitating(restart="beginning", learn_every=2, observers=0))
    start = {k: p.detach().clone() for k, p in trainer.policies["llm_0"].parameters().items()}
    trainer.iterate(0)
    trainer.iterate(1)
    learnt = trainer.learner.optimizers["llm_0"].state
    assert {int(state["step"]) for state in learnt.values()} == {
        len(whole(items(trainer, "llm_0"), 8)) // 4
    }
    with torch.no_grad():
        for parameter in trainer.policies["llm_0"].parameters().values():
            parameter += 1
    trainer.learner._restart("llm_0")
    for key, parameter in trainer.policies["llm_0"].parameters().items():
        assert torch.equal(parameter, start[key])
    assert not trainer.learner.optimizers["llm_0"].state


@pytest.mark.parametrize("stop", [1, 3])
@pytest.mark.parametrize("restart", ["previous", "beginning"])
def test_resuming_is_exact_in_the_middle_of_a_round(tmp_path, toy_config, restart, stop):
    options = {**ALL, "algorithm": "rcrl", "learn_every": 2, "restart": restart, "accept": "0.3"}
    options |= {"good_label": "a", "bad_label": "b"}
    assert_resuming_is_exact(toy_config, tmp_path, stop=stop, **options, adapter="lora")


# ---- labels


def test_labels_stand_before_the_prompts_of_good_and_bad_responses(imitating):
    labels = {"good_label": "a", "bad_label": "b"}
    config = imitating("rcrl", accept="1.0", observers=0, **labels)
    trainer, rollout, _ = play(config, [1, 0, 1, 0, 0, 0, 0, 0])
    (turn,) = rollout.turns
    expected = [f"{'a' if row in (0, 2) else 'b'}{p}" for row, p in enumerate(turn.prompts)]
    assert texts(trainer, "llm_0") == expected
    # It is asked for good ones.
    decode = trainer.policies["llm_0"].backbone.tokenizer.decode
    read = [
        decode(ids[mask])
        for ids, mask in zip(turn.tokens.prompt_ids, turn.tokens.prompt_mask, strict=True)
    ]
    assert read == [f"a{prompt}" for prompt in turn.prompts]


def test_who_is_evaluated_reads_the_good_label_and_the_reference_none(imitating):
    config = imitating("rcrl", good_label="c", bad_label="d")
    policies = Parts.build(TrainConfig.from_json(config.to_json()), learns=False).policies
    assert {policy.label for policy in policies.values()} == {"c"}
    assert {policy.label for policy in references(policies).values()} == {""}
    asked = policies["llm_0"].encode(["a>"], 1)[0].tolist()
    assert asked == policies["llm_0"].labelled("").encode(["ca>"], 1)[0].tolist()


def test_an_evaluation_also_asks_behind_the_bad_label(imitating):
    config = imitating("rcrl", good_label="a", bad_label="b", observers=0, iterations=1)
    run = train(config.replace(evaluation_queries=8), console=QUIET)
    names = [row["name"] for row in run.evaluation["rows"]]
    assert names == ["reference", "llm_0", "llm_0 behind 'b'"]
    # The same query, another prompt: not what it says behind the good one.
    assert run.evaluation["rows"][1]["kl"] != run.evaluation["rows"][2]["kl"]
    assert "begin with `a`" in (run.folder / "final" / "llm_0" / "README.md").read_text()


# ---- advantage-weighted regression


def test_advantage_weighted_regression_has_the_gradient_of_weighted_log_probs(toy_config):
    config = toy_config(algorithm="awr", beta=0.5, weight_cap=3.0, kl_coef=0.0, value_coef=0.0)
    trainer, _, prepared = play(config)
    batch = prepared[1].batch
    parameters = list(trainer.policies["llm_1"].parameters().values())
    with torch.no_grad():
        for parameter in parameters:  # the ratio is no longer 1, and does not count
            parameter *= 1.2
    found = torch.autograd.grad(trainer.algorithm.loss("llm_1", batch).loss, parameters)
    weights = (2 * batch.advantages).exp().clamp(max=3.0) * batch.response_mask
    log_probs = trainer.policies["llm_1"].log_probs(batch)
    loss = -(weights * log_probs).sum() / (len(batch) * trainer.games.rules.max_new_tokens)
    for one, other in zip(found, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


# ---- starting from another run


def test_a_run_starts_from_the_policies_of_another_and_its_reference_stays(toy_config, tmp_path):
    first = toy_config(out=str(tmp_path / "first"), iterations=2)
    train(first, console=QUIET)
    given = load_checkpoint(RunFolder(first.run_folder).checkpoints()[-1])[0]
    options = {"algorithm": "expert_iteration", "restart": "beginning", "start": first.out}
    trainer = Trainer(toy_config(**options, group_size=4))
    fresh = {k: p.clone() for k, p in trainer.policies["llm_1"].parameters().items()}
    trainer.start_from(given)
    for key, parameter in trainer.policies["llm_1"].parameters().items():
        assert torch.equal(parameter, given[f"policy/llm_1/{key}"])
    assert any(not torch.equal(fresh[key], given[f"policy/llm_1/{key}"]) for key in fresh)
    assert trainer.iterate(0)["llm_0/kl"] > 1e-4
    trainer.learner._restart("llm_1")  # to where this run began
    for key, parameter in trainer.policies["llm_1"].parameters().items():
        assert torch.equal(parameter, given[f"policy/llm_1/{key}"])


def test_a_single_policy_starts_from_one_of_a_pair_and_is_resumed_without_it(toy_config, tmp_path):
    first = toy_config(out=str(tmp_path / "first"), iterations=1)
    train(first, console=QUIET)
    second = toy_config(out=str(tmp_path / "second"), start=first.out, observers=0, iterations=2)
    train(second.replace(iterations=1), console=QUIET)
    (tmp_path / "first").rename(tmp_path / "gone")
    run = train(second, resume=True, console=QUIET)
    assert run.metrics[0]["llm_0/kl"] > 1e-5


def test_what_cannot_be_started_from_is_refused_before_anything_is_written(toy_config, tmp_path):
    with pytest.raises(ValueError, match="Expected start to be a run folder with a checkpoint"):
        train(toy_config(start=str(tmp_path / "nothing")), console=QUIET)
    first = toy_config(out=str(tmp_path / "first"), adapter="lora", iterations=1)
    train(first, console=QUIET)
    with pytest.raises(ValueError, match="Expected a checkpoint of this model"):
        train(toy_config(start=first.out, out=str(tmp_path / "other")), console=QUIET)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accept": "best"}, "Expected accept to be a task reward or top:SHARE, got 'best'"),
        ({"accept": "nan"}, "Expected accept to be a task reward or top:SHARE, got 'nan'"),
        ({"accept": "top:2"}, "with a share between 0 and 1, got 'top:2'"),
        ({"per_query": 0}, "Expected per_query to be at least 1, got 0"),
        ({"restart": "never"}, "restart"),
        ({"clip": 0.1}, "Expected clip with an algorithm that has it"),
        ({"algorithm": "awr", "beta": 0}, "Expected beta to be above 0, got 0"),
        ({"algorithm": "awr", "accept": "1"}, "Expected accept with an algorithm that has it"),
        ({"algorithm": "rcrl", "bad_label": "Right. "}, "Expected good_label and bad_label to"),
    ],
)
def test_bad_options_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        TrainConfig(**{"algorithm": "expert_iteration", **changes})
    assert "\n" not in str(caught.value)

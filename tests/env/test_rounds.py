"""Several rounds: who reads what, who is paid what, and the teacher of a lesson."""

import numpy as np
import pytest

import cory_env
from cory_env import Example
from cory_env.game import earnings, share
from cory_env.options import make_rules
from cory_env.tasks.arithmetic import ArithmeticTask
from cory_env.tasks.lesson import LessonTask
from cory_env.tasks.toy import ToyTask
from cory_env.testing import replay

ABC = Example("abc", reference="cba")
OWN = np.array([[1.0, 2.0, 10.0, 20.0, 100.0, 200.0]])
"""Of two agents in three rounds."""


def prompts_of(rules, example, responses, **options):
    """Return what is read in every turn behind these responses."""
    state = rules.start(example, **options)
    read = [rules.prompt(state)]
    for text in responses:
        state = rules.respond(state, rules.response(text, "somebody"))
        read += [rules.prompt(state)] if rules.agent_on_turn(state) else []
    assert rules.agent_on_turn(state) is None
    assert [rules.prompt(state, turn) for turn in range(len(rules.turns))] == read
    return read


@pytest.mark.parametrize(
    ("sharing", "paid"),
    [
        ("collective", [333, 333]),
        ("mean", [55.5, 55.5]),
        ("individual", [111, 222]),
        ("last", [200, 200]),
        (0.5, [222, 277.5]),
        (-1, [-111, 111]),
    ],
)
def test_all_rounds_are_paid_as_they_are_shared(sharing, paid):
    assert share(OWN, sharing, 2).tolist() == [paid]
    earned = earnings(OWN, sharing, 2)
    assert earned.shape == (1, 6, 2)
    assert earned.sum(1)[0].tolist() == pytest.approx(paid)
    for turn in range(6):
        alone = np.where(np.arange(6) == turn, OWN, 0)
        assert earned[:, turn].tolist() == share(alone, sharing, 2).tolist()


def test_everybody_reads_all_that_was_answered():
    rules = make_rules(ToyTask(), rounds=2, observers=1)
    assert rules.turns == ("pioneer_0", "observer_0") * 2
    read = prompts_of(rules, ABC, ["a", "b", "c", "d"])
    assert read == ["abc>", "a=", "a,b=", "a,b,c="]


@pytest.mark.parametrize("options", [{"knowledge_transfer": False}, {}])
def test_without_transfer_an_agent_knows_what_it_has_said_itself(options):
    rules = make_rules(ToyTask(), rounds=2, observers=2, **options)
    read = prompts_of(rules, ABC, "abcdef", isolated=not options)
    assert read == ["abc>", "=", "=", "a=", "b=", "c="]


def test_a_single_agent_reads_its_own_answers():
    rules = make_rules(ToyTask(), rounds=3, observers=0)
    assert prompts_of(rules, ABC, "abc") == ["abc>", "a=", "a,b="]


def test_verdicts_are_told_in_all_rounds():
    rules = make_rules(ArithmeticTask(), rounds=2, verdict="wrong")
    read = prompts_of(rules, Example("1 + 1?", "2"), ["#### 3", "#### 2", "#### 4", "#### 2"])
    alone = "Question: 1 + 1? Answer:"
    told = "Question: 1 + 1? Reference: #### 3 (wrong) Answer:"
    both = "Question: 1 + 1? Reference: #### 3 (wrong) Reference: #### 4 (wrong) Answer:"
    assert read == [alone, told, told, both]


def test_a_lesson_goes_back_and_forth():
    rules = make_rules(LessonTask(), rounds=3, reward_sharing="last")
    read = prompts_of(rules, ABC, ["cba", "cbb", "ccc", "cba", "a", "b"])
    assert read == [
        *("abc>", "cba="),
        *("abc,cba,cbb->", "cba,cbb,ccc="),
        *("abc,cba,cbb-,ccc,cba+>", "cba,cbb,ccc,cba,a="),
    ]


def test_messages_of_a_teacher_are_not_scored():
    asked = []

    def reward(examples, responses):
        asked.append(list(responses))
        return np.array(
            [
                float(text == example.reference)
                for example, text in zip(examples, responses, strict=True)
            ]
        )

    games = cory_env.vector_env(2, LessonTask(), reward=reward, rounds=2, reward_sharing="last")
    prompts = games.reset(examples=[ABC, ABC])
    for said in (["cba"] * 2, ["cba", "c"], ["g", "h"], ["a", "cba"]):
        assert len(prompts) == 2
        prompts = games.step(said)
    assert prompts == []
    # Of the first round only what the teacher is told, in the end all answers in one call.
    assert asked == [["cba", "c"], ["cba", "a", "c", "cba"]]
    assert games.turn_rewards.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert games.task_rewards["pioneer_0"].tolist() == [0, 0]
    assert games.rewards["pioneer_0"].tolist() == games.rewards["observer_0"].tolist() == [0, 1]
    assert [r.text for r in games.responses["pioneer_0"]] == ["g", "h"]


def test_a_teacher_without_a_student_answers():
    rules = make_rules(LessonTask(), observers=0, rounds=2)
    assert prompts_of(rules, ABC, ["cba", "a"]) == ["abc>", "cba="]
    state = rules.start(ABC)
    for text in ("cba", "a"):
        state = rules.respond(state, rules.response(text, "pioneer_0"))
    assert rules.payoffs([state])[0].tolist() == [[1, 0]]
    assert LessonTask().optimum(0) == (1.0,)
    assert LessonTask().optimum(2) == (0.0, 1.0, 1.0)


def test_roles_are_exchanged_between_episodes_and_not_between_rounds():
    games = cory_env.vector_env(2, "toy", rounds=2, swap_every=1)
    games.reset(seed=0)
    games.reset()
    order = []
    while (agent := games.agent_selection) is not None:
        order.append((agent, games.roles[agent]))
        games.step(["a", "b"])
    assert order == [("llm_1", "pioneer_0"), ("llm_0", "observer_0")] * 2


@pytest.mark.parametrize("task", ["toy", "lesson"])
@pytest.mark.parametrize("options", [{"observers": 2}, {"swap_every": 9}, {"observers": 0}])
def test_a_batch_is_replayed_token_by_token(task, options):
    options = {"rounds": 3, "reward_sharing": "last", **options}
    games = cory_env.vector_env(3, task, max_prompt_tokens=200, **options)
    rng = np.random.default_rng(0)
    prompts = games.reset(seed=0)
    while prompts:
        prompts = games.step(rng.integers(1, games.rules.tokenizer.vocab_size, size=(3, 2)))
    replay(games, cory_env.env(task, max_prompt_tokens=200, **options))


def test_the_transcript_shows_all_rounds():
    env = cory_env.env("toy", rounds=2, action_level="response", render_mode="ansi")
    env.reset(options={"example": ABC})
    for text in ("cba", "a", "b", "cba"):
        env.step(text)
    assert env.render().splitlines()[-6:] == [
        "pioneer_0 (round 2) reads: 'cba,a='",
        "pioneer_0 (round 2) answers: 'b'",
        "observer_0 (round 2) reads: 'cba,a,b='",
        "observer_0 (round 2) answers: 'cba' (token limit)",
        "pioneer_0 is paid: 2",
        "observer_0 is paid: 2",
    ]
    assert env.infos["pioneer_0"]["task_rewards"] == pytest.approx([1, 0])
    assert env.infos["observer_0"]["task_reward"] == 1


@pytest.mark.parametrize("rounds", [0, 1.5, True, "2"])
def test_rounds_are_a_number_of_at_least_one(rounds):
    with pytest.raises(ValueError, match="Expected rounds to be an integer of at least 1"):
        cory_env.env("toy", rounds=rounds)


def test_a_lesson_has_marks_of_its_own():
    with pytest.raises(ValueError, match="verdict none with task lesson") as error:
        make_rules("lesson", verdict="all")
    assert "\n" not in str(error.value)


def test_a_task_that_teaches_says_what_its_teacher_reads():
    class Silent(LessonTask):
        name = "silent"
        feedback_prompt = cory_env.Task.feedback_prompt

    games = cory_env.vector_env(1, Silent(), rounds=2)
    games.reset(seed=0)
    games.step(["a"])
    with pytest.raises(ValueError, match="got silent: give it a method feedback_prompt"):
        games.step(["a"])


def test_a_table_has_one_round():
    from cory_env.adapters.tables import Tables

    with pytest.raises(ValueError, match="one round at a table"):
        Tables("toy", rounds=2)

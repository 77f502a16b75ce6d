"""Tasks and rewards: conformance of all that are registered, and what is special to each."""

import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest

import cory_env
from cory_env import word_problems
from cory_env.registry import REWARDS, TASKS
from cory_env.rewards.answer import final_number
from cory_env.rewards.toy import MatchReward
from cory_env.task import Task
from cory_env.tasks.arithmetic import REAL
from cory_env.testing import check_reward, check_task
from cory_env.tokenization import load_tokenizer
from cory_env.types import Example


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_registered_task_conforms(name, split):
    task = cory_env.make_task(name, split=split)
    assert task.name == name
    check_task(task)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_train_and_test_examples_differ(name):
    train, test = (cory_env.make_task(name, split=split).examples for split in ("train", "test"))
    assert list(train) != list(test)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_examples_are_the_same_each_time(name):
    first, second = (cory_env.make_task(name, split="test").examples for _ in range(2))
    assert list(first) == list(second)


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_every_registered_reward_conforms(name):
    check_reward(
        cory_env.make_reward(name),
        [Example("abc", reference="42"), Example("This film", reference="7 #### 7")],
    )


class Silent(Task):
    name = "silent"
    reward = "match"
    examples = (Example("a", reference="a"),)


def test_a_task_needs_a_name_examples_and_a_reward():
    check_task(Silent())
    assert Silent().pioneer_prompt("This film") == "This film"
    assert Silent().observer_prompt("This film", []) == "This film"
    assert Silent().observer_prompt("This film", [" shone.", " bored."]) == (
        "This film shone.\nThis film bored.\nThis film"
    )


def test_what_only_looks_like_a_task_is_none():
    with pytest.raises(AssertionError, match="subclass of Task"):
        check_task(SimpleNamespace(**vars(Silent)))
    with pytest.raises(TypeError, match="task object"):
        cory_env.vector_env(1, SimpleNamespace(**vars(Silent)))


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ({"examples": ()}, "got none"),
        ({"max_prompt_tokens": 1}, "max_prompt_tokens=1 tokens, got 2"),
        ({"max_new_tokens": 150}, "max_prompt_tokens=240 tokens, got 30"),
        ({"examples": (*Silent.examples * 99, Example("a" * 300))}, "max_prompt_tokens=240"),
        ({"sample": lambda self, rng: Example(str(np.random.rand()))}, "equal samples"),  # noqa: NPY002
        ({"examples": (Example("a", reference=""),)}, "reference"),
    ],
)
def test_check_task_finds_the_flaw(flaw, message):
    with pytest.raises((AssertionError, RuntimeError), match=message):
        check_task(type("Flawed", (Silent,), flaw)())


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda e, r: [0.0] * len(r), "float64 array"),
        (lambda e, r: np.zeros(len(r), np.float32), "float64 array"),
        (lambda e, r: np.zeros(max(len(r), 1)), "empty batch"),
        (lambda e, r: np.full(len(r), np.nan), "finite"),
        (lambda e, r: np.arange(len(r), dtype=float), "its own response"),
        (lambda e, r: np.random.rand(len(r)), "same scores again"),  # noqa: NPY002
    ],
)
def test_check_reward_finds_the_flaw(reward, message):
    with pytest.raises(AssertionError, match=message):
        check_reward(reward, [Example("a")])


@pytest.mark.parametrize(
    ("response", "expected"),
    [("cba", 1), ("cbb", 2 / 3), ("c", 1 / 3), ("", 0), ("abc", 1 / 3), ("cbac", 3 / 4)],
)
def test_match_counts_the_positions_that_agree(response, expected):
    scores = MatchReward()([Example("abc", reference="cba")], [response])
    np.testing.assert_allclose(scores, [expected], rtol=1e-12)


def test_match_without_a_reference_is_an_error():
    with pytest.raises(ValueError, match="reference"):
        MatchReward()([Example("abc")], ["cba"])


@pytest.mark.parametrize("options", [{"length": 0}, {"symbols": 1}, {"symbols": 17}])
def test_toy_names_a_wrong_option(options):
    with pytest.raises(ValueError, match=r"Expected .* got"):
        cory_env.make_task("toy", **options)


def test_toy_fits_a_vocabulary_of_twenty():
    assert cory_env.make_task("toy", symbols=16).tokenizer.vocab_size == 20


@pytest.mark.parametrize("transfer", [True, False])
def test_toy_optimum_is_that_of_enumeration(transfer):
    """Try each pioneer, and against it the best observer for each prompt."""
    task = cory_env.make_task("toy", length=2, symbols=2)
    reward = MatchReward()
    strings = ["".join(s) for n in range(3) for s in itertools.product("ab", repeat=n)]
    queries = [s for s in strings if len(s) == 2]
    scores = np.array(
        [[reward([Example(q, reference=q[::-1])], [s])[0] for s in strings] for q in queries]
    )
    best = (-1.0, (0.0, 0.0))
    for answers in itertools.product(range(len(strings)), repeat=len(queries)):
        prompts = [
            task.observer_prompt(query, [strings[answer]] if transfer else [])
            for query, answer in zip(queries, answers, strict=True)
        ]
        pioneer = scores[np.arange(len(queries)), list(answers)].mean()
        observer = sum(
            scores[[i for i, seen in enumerate(prompts) if seen == prompt]].sum(axis=0).max()
            for prompt in set(prompts)
        ) / len(queries)
        best = max(best, (pioneer + observer, (pioneer, observer)))
    assert best[1] == pytest.approx(task.optimum(1, transfer), rel=1e-12)


def test_toy_optimum_has_one_entry_per_role():
    assert cory_env.make_task("toy").optimum(3, False) == (1, 1 / 8, 1 / 8, 1 / 8)
    assert cory_env.make_task("toy").optimum(0) == (1,)


def test_imdb_prompts_are_those_of_the_paper():
    task = cory_env.make_task("imdb")
    assert task.pioneer_prompt("This film") == "This film"
    assert task.observer_prompt("This film", [" was fine."]) == (
        'I can make this sentence "This film was fine." more positive: This film'
    )
    assert task.observer_prompt("This film", [" was fine.", " shone."]) == (
        'I can make these sentences "This film was fine.", "This film shone." more positive: '
        "This film"
    )
    assert task.observer_prompt("This film", []) == "This film"


def test_imdb_queries_are_short_and_disjoint_between_the_splits():
    train, test = (
        {example.query for example in cory_env.make_task("imdb", split=split).examples}
        for split in ("train", "test")
    )
    assert min(len(train), len(test)) > 10_000
    # Whole reviews are disjoint; a beginning such as "I was given" may occur in both.
    assert len(train & test) < 0.1 * len(test)
    assert max(len(query.split()) for query in train | test) <= 8


def test_gsm8k_prompts_are_those_of_the_paper():
    task = cory_env.make_task("gsm8k")
    shot = (
        "Question: Shawn has five toys. For Christmas, he got two toys each from his mom and dad. "
        "How many toys does he have now? Answer: Shawn started with 5 toys. If he got 2 toys each "
        "from his mom and dad, then that is 4 more toys. 5 + 4 = 9. The answer is 9. "
    )
    assert task.pioneer_prompt("1 + 1?") == shot + "Question: 1 + 1? Answer:"
    assert task.observer_prompt("1 + 1?", []) == shot + "Question: 1 + 1? Answer:"
    assert task.observer_prompt("1 + 1?", [" It is 2.\n"]) == (
        shot + "Question: 1 + 1? Reference: It is 2. Answer:"
    )


def test_gsm8k_is_whole():
    train, test = (cory_env.make_task("gsm8k", split=split).examples for split in ("train", "test"))
    assert (len(train), len(test)) == (7473, 1319)
    assert train[0].query.startswith("Natalia sold clips to 48 of her friends in April")
    assert [example.reference for example in (*train[:3], train[-1])] == ["72", "10", "5", "50"]
    assert test[0].query.startswith("Janet’s ducks lay 16 eggs per day.")
    assert [example.reference for example in test[:4]] == ["18", "3", "70000", "540"]
    assert not {example.query for example in train} & {example.query for example in test}
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", e.reference or "") for e in (*train, *test))


@pytest.mark.parametrize(
    ("split", "count", "query", "references"),
    [
        ("addsub", 395, "Joan found 70 seashells on the beach .", ["43", "26", "6"]),
        ("multiarith", 600, "For Halloween Debby and her sister", ["39", "8", "2"]),
        ("singleeq", 508, "Joan found 70 seashells on the beach.", ["43", "26", "135"]),
        ("singleop", 562, "If there are 7 bottle caps in a box", ["14", "9", "8"]),
    ],
)
def test_the_real_problems_are_whole(split, count, query, references):
    task = cory_env.make_task("arithmetic", split=split)
    assert len(task.examples) == count
    assert task.examples[0].query.startswith(query)
    assert [example.reference for example in task.examples[:3]] == references
    assert all(final_number(example.reference) is not None for example in task.examples)
    assert task.sample(np.random.default_rng(0)) in task.examples
    check_task(task)


def test_decimals_that_were_cut_are_fractions():
    references = {
        example.reference
        for split in REAL
        for example in cory_env.make_task("arithmetic", split=split).examples
    }
    assert {"2/3", "11/12", "10/3", "0.125", "158.35"} <= references
    assert not any(re.fullmatch(r"\d+\.\d{4,}", reference) for reference in references)


KNOWN = word_problems.WORDINGS["known"]


@pytest.mark.parametrize("difficulty", word_problems.DIFFICULTIES)
@pytest.mark.parametrize("wording", word_problems.WORDINGS)
def test_no_draw_of_arithmetic_is_in_both_splits(difficulty, wording):
    tasks = [
        cory_env.make_task("arithmetic", split=split, difficulty=difficulty, wording=wording)
        for split in ("train", "test")
    ]
    rng = np.random.default_rng(0)
    train, test = ({task.sample(rng).query for _ in range(2000)} for task in tasks)
    train |= {example.query for example in tasks[0].examples}
    test |= {example.query for example in tasks[1].examples}
    assert not train & test
    assert min(len(train), len(test)) > 2000


@pytest.mark.parametrize("difficulty", word_problems.DIFFICULTIES)
def test_arithmetic_is_asked_as_the_embedded_model_learnt_it(difficulty):
    task, tokenizer = (
        cory_env.make_task("arithmetic", difficulty=difficulty),
        load_tokenizer("embedded"),
    )
    documents = word_problems.pretraining_texts(np.random.default_rng(0))
    form = re.compile(r"Question: (.*\?)(?: Reference: (.*))? Answer: (.*)")
    for document in itertools.islice(documents, 100):
        query, earlier, answer = form.fullmatch(document).groups()
        prompt = task.observer_prompt(query, [] if earlier is None else [f" {earlier}"])
        assert f"{prompt} {answer}" == document
    for example in task.examples:
        solution = tokenizer.encode(f" {example.reference}", begin=False)
        assert len(solution) + 1 <= task.max_new_tokens == 16 * difficulty
        query, steps = example.query, example.reference.count("=")
        assert steps == difficulty
        prompt = tokenizer.encode(task.observer_prompt(query, [example.reference] * 2))
        assert len(prompt) + task.max_new_tokens <= 256


@pytest.mark.parametrize("difficulty", [0, 4, "2", None])
def test_arithmetic_names_a_wrong_difficulty(difficulty):
    with pytest.raises(ValueError, match=f"difficulty .*got {difficulty!r}"):
        cory_env.make_task("arithmetic", difficulty=difficulty)


@pytest.mark.parametrize("difficulty", word_problems.DIFFICULTIES)
def test_new_words_are_new_and_fit(difficulty):
    """The pre-training of the embedded model has met none of their sentences."""
    task, tokenizer = (
        cory_env.make_task("arithmetic", difficulty=difficulty, wording="new"),
        load_tokenizer("embedded"),
    )
    known = [re.compile(re.sub(r"{.*?}", ".+", text)) for text in sum(KNOWN, ())]
    for example in task.examples:
        first, *changes, question = re.findall(r"[^.?]+[.?]", example.query)
        assert re.fullmatch(r"\w+ has \d+ \w+\.", first)
        assert question.startswith(" How many")
        assert len(changes) == difficulty == len(re.findall(r" [-+] ", example.reference))
        assert not any(form.fullmatch(change.strip()) for form in known for change in changes)
        prompt = tokenizer.encode(task.observer_prompt(example.query, [example.reference] * 2))
        assert len(prompt) + task.max_new_tokens <= 256


@pytest.mark.parametrize("split", ["train", "addsub"])
def test_arithmetic_names_a_wrong_wording(split):
    with pytest.raises(ValueError, match=r"wording \(known, new\), got 'old'"):
        cory_env.make_task("arithmetic", split=split, wording="old")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"imdb, lesson, toy.*got 'imbd': did you mean imdb\?"):
        cory_env.make_task("imbd")
    with pytest.raises(
        ValueError, match=r"match, scored, sentiment.*got 'sentimant': did you mean sentiment\?"
    ):
        cory_env.make_reward("sentimant")
    for name in TASKS:
        with pytest.raises(ValueError, match=r"train, test.*got 'dev'"):
            cory_env.make_task(name, split="dev")


def test_a_registered_task_and_reward_are_found_by_all_forms():
    try:
        cory_env.register_task("silent")(lambda split: Silent())
        cory_env.register_reward("zero")(lambda: lambda e, r: np.zeros(len(r)))
        games = cory_env.vector_env(2, "silent", reward="zero")
        assert games.reset() == ["a", "a"]
        with pytest.raises(ValueError, match=r"new task name, got 'silent'"):
            cory_env.register_task("silent")(Silent)
        with pytest.raises(ValueError, match=r"new reward name, got 'match'"):
            cory_env.register_reward("match")(MatchReward)
    finally:
        TASKS.pop("silent", None)
        REWARDS.pop("zero", None)

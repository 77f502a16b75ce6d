"""`Task.from_dataset`: every kind of source, the prompts, and one clear error per flaw."""

import csv
import gzip
import json
import pickle
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import cory_env
from cory_env.testing import check_task
from cory_env.types import Example

ROWS = [
    {"question": "How many legs has a cat?", "answer": "4", "n": 4},
    {"question": "Was sind 3 + 4, „bitte“?", "answer": "3 + 4 = 7\n#### 7", "n": 7},
    {"question": 'Say "1,5", then 2\nmore.', "answer": "3,5", "n": 3.5},
]
EXAMPLES = [Example(row["question"], reference=row["answer"]) for row in ROWS]


def write_jsonl(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def write_jsonl_gz(path):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n")


def cell(text, delimiter):
    quoted = any(mark in str(text) for mark in f'"\n{delimiter}')
    return '"{}"'.format(str(text).replace('"', '""')) if quoted else str(text)


def write_table(path, delimiter, end="\n"):
    rows = [ROWS[0].keys(), *(row.values() for row in ROWS)]
    text = "".join(delimiter.join(cell(c, delimiter) for c in row) + end for row in rows)
    path.write_bytes(text.encode("utf-8-sig"))


WRITERS = {
    "rows.jsonl": write_jsonl,
    "rows.ndjson": write_jsonl,
    "ROWS.JSONL": write_jsonl,
    "rows.jsonl.gz": write_jsonl_gz,
    "Rows.JsonL.GZ": write_jsonl_gz,
    "rows.csv": lambda path: write_table(path, ","),
    "ROWS.CSV": lambda path: write_table(path, ","),
    "rows.tsv": lambda path: write_table(path, "\t", "\r\n"),
}


@pytest.fixture(params=WRITERS)
def path(request, tmp_path):
    WRITERS[request.param](tmp_path / request.param)
    return tmp_path / request.param


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """Yield the package, which keeps its caches in the test's folder and asks no network."""
    module = pytest.importorskip("datasets")
    monkeypatch.setattr(module.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(module.config, "HF_HUB_OFFLINE", True)
    module.disable_progress_bars()
    return module


@pytest.fixture
def saved(datasets, tmp_path):
    """Yield a folder with train and test, as `save_to_disk` leaves it."""
    rows = datasets.Dataset.from_list([{**row, "n": str(row["n"])} for row in ROWS])
    splits = datasets.DatasetDict({"train": rows, "test": rows.select([2, 1])})
    splits.save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_file_becomes_a_task_that_conforms(path):
    task = cory_env.Task.from_dataset(path)
    assert task.examples == EXAMPLES
    assert cory_env.Task.from_dataset(str(path), limit=2).examples == EXAMPLES[:2]
    check_task(task)
    games = cory_env.vector_env(2, task)
    games.reset(seed=0)
    games.step(["4", "It is 4"])
    games.step(["7", "It is 7"])
    wanted = [[example.reference[-1]] * 2 for example in games.examples]
    assert games.task_rewards["observer_0"].tolist() == [float(w == ["7", "7"]) for w in wanted]
    assert pickle.loads(pickle.dumps(task)).examples == EXAMPLES


def test_text_files_are_read_without_the_package(path):
    """In a process in which the package cannot be imported."""
    program = (
        "import sys; sys.modules['datasets'] = None\n"
        "import cory_env\n"
        "print(len(cory_env.Task.from_dataset(sys.argv[1]).examples))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "3"


def test_rows_can_be_mappings_and_columns_have_any_name():
    rows = [{"problem": "1 + 1?", "solution": 2, "id": None}]
    task = cory_env.Task.from_dataset(iter(rows), query="problem", reference="solution")
    assert task.examples == [Example("1 + 1?", reference="2")]
    assert cory_env.Task.from_dataset(rows, query="problem", reference=None).examples == [
        Example("1 + 1?")
    ]


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("7", "7"),
        (7, "7"),
        (10**30, "1" + "0" * 30),
        (0.5, "0.5"),
        (np.int64(7), "7"),
        (np.float64(0.5), "0.5"),
        (Fraction(1, 2), "1/2"),
        (Decimal("0.50"), "0.50"),
    ],
)
def test_a_gold_answer_is_a_text_or_a_finite_number(gold, text):
    task = cory_env.Task.from_dataset([{"question": "?", "answer": gold}])
    assert task.examples == [Example("?", reference=text)]


NOT_FINITE = (float("nan"), float("inf"), -float("inf"), np.float64("nan"), Decimal("nan"))


@pytest.mark.parametrize(
    "gold", [True, np.True_, [], ["12"], {}, {"number": 12}, b"7", *NOT_FINITE]
)
def test_nothing_else_becomes_a_gold_answer(gold):
    rows = [{"question": "?", "answer": 7}, {"question": "?", "answer": gold}]
    message = r"a text or a finite number in column 'answer' of row 1, got "
    with pytest.raises(ValueError, match=message):
        cory_env.Task.from_dataset(rows)


DROP = {"question": "?", "answer": {"number": "12", "date": {"day": "3", "year": ""}, "spans": []}}
SQUAD = {"question": "?", "answers": {"text": ["12"], "answer_start": [515]}}


@pytest.mark.parametrize(
    ("row", "reference", "gold"),
    [
        (DROP, "answer.number", "12"),
        (DROP, "answer.date.day", "3"),
        (SQUAD, "answers.text.0", "12"),
        (SQUAD, "answers.answer_start.0", "515"),
        ({**DROP, "answer.number": 7}, "answer.number", "7"),
    ],
)
def test_a_nested_value_is_named_with_points(row, reference, gold):
    task = cory_env.Task.from_dataset([row], reference=reference)
    assert task.examples == [Example("?", reference=gold)]


@pytest.mark.parametrize(
    ("row", "reference", "message"),
    [
        (
            DROP,
            "answer",
            r"got {'date': .*: name one of its values, as \['answer.number', 'answer.d",
        ),
        (DROP, "answer.date", r"'answer.date' of .*line 2, got .*as \['answer.date.day', 'answer"),
        (DROP, "answer.spans", r"text or a finite number .* got \[\]\.$"),
        (DROP, "answer.date.year", "a text in column 'answer.date.year' .*, got ''"),
        (
            DROP,
            "answer.nothing",
            r"a value in column 'answer.nothing' .* got none: its columns are",
        ),
        (SQUAD, "answers", r"column 'answers' of .*line 2, got .*as \['answers.text', 'answers.an"),
        (SQUAD, "answers.text", r"got \['12'\]: name one of its values, as \['answers.text.0'\]"),
        (SQUAD, "answers.text.1", "a value in column 'answers.text.1'"),
        (SQUAD, "answers.text.first", "a value in column"),
        (SQUAD, "question.text", "a value in column"),
    ],
)
def test_a_nested_cell_is_no_text(tmp_path, row, reference, message):
    path = tmp_path / "a.jsonl"
    path.write_text("\n" + json.dumps(row))
    with pytest.raises(ValueError, match=message) as raised:
        cory_env.Task.from_dataset(path, reference=reference)
    assert "\n" not in str(raised.value)


def test_nested_columns_and_missing_numbers_of_a_loaded_data_set(datasets):
    rows = datasets.Dataset.from_list(
        [{"question": "?", "answer": {"number": 12.0, "unit": "eggs"}}]
    )
    task = cory_env.Task.from_dataset(rows, reference="answer.number")
    assert task.examples == [Example("?", reference="12.0")]
    with pytest.raises(
        ValueError, match=r"'answer' of row 0, got .*as \['answer.number', 'answer.u"
    ):
        cory_env.Task.from_dataset(rows)
    rows = datasets.Dataset.from_dict({"question": ["?", "?"], "answer": [4.0, float("nan")]})
    with pytest.raises(ValueError, match="finite number in column 'answer' of row 1, got nan"):
        cory_env.Task.from_dataset(rows)
    assert len(cory_env.Task.from_dataset(rows, limit=1).examples) == 1


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
def test_a_cell_is_as_long_as_it_is(tmp_path, name, delimiter):
    limit = csv.field_size_limit()
    (tmp_path / name).write_text(f"question{delimiter}answer\n{'a ' * 70_000}{delimiter}4\n")
    task = cory_env.Task.from_dataset(tmp_path / name)
    assert task.examples == [Example("a " * 70_000, reference="4")]
    assert csv.field_size_limit() == limit


def test_quotation_marks_of_a_tsv_file_are_those_of_a_csv_file(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('question\tanswer\n"Say ""hi""\tor\nnot"\t4\nA 5" pipe\t5\n')
    assert cory_env.Task.from_dataset(path).examples == [
        Example('Say "hi"\tor\nnot', reference="4"),
        Example('A 5" pipe', reference="5"),
    ]
    path.write_text('question\tanswer\nA?\t4\n"Hi" she said\t5\n')
    with pytest.raises(
        ValueError, match=r"cells in .*a.tsv, line 3, got .* those within it are dou"
    ):
        cory_env.Task.from_dataset(path)


def test_prompts_are_questions_with_references_by_default():
    task = cory_env.Task.from_dataset(ROWS)
    assert task.pioneer_prompt("1 + 1?") == "Question: 1 + 1? Answer:"
    assert task.observer_prompt("1 + 1?", []) == "Question: 1 + 1? Answer:"
    assert task.observer_prompt("1 + 1?", [" 2\n", "3"]) == (
        "Question: 1 + 1? Reference: 2 Reference: 3 Answer:"
    )


def test_prompts_are_filled_once_and_keep_other_braces():
    task = cory_env.Task.from_dataset(
        ROWS,
        prompt="{earlier}Solve {query} in \\boxed{} {x}:",
        quote="{query} was answered {response}. ",
    )
    assert task.pioneer_prompt("{earlier}") == "Solve {earlier} in \\boxed{} {x}:"
    assert task.observer_prompt("q", ["{query}", "{response}"]) == (
        "q was answered {query}. q was answered {response}. Solve q in \\boxed{} {x}:"
    )


def test_a_saved_data_set_has_splits(saved):
    assert cory_env.Task.from_dataset(saved).examples == EXAMPLES
    assert cory_env.Task.from_dataset(saved, split="test").examples == EXAMPLES[:0:-1]
    assert cory_env.Task.from_dataset(saved / "test").examples == EXAMPLES[:0:-1]
    with pytest.raises(ValueError, match=r"splits \['test', 'train'\] .*got split 'dev'"):
        cory_env.Task.from_dataset(saved, split="dev")
    with pytest.raises(ValueError, match=r"row 0, got none: its columns are \['question', 'answer"):
        cory_env.Task.from_dataset(saved, reference="label")


def test_a_loaded_data_set_is_rows(datasets, saved):
    rows = datasets.load_from_disk(str(saved))
    assert cory_env.Task.from_dataset(rows["train"]).examples == EXAMPLES
    with pytest.raises(ValueError, match="values by column in row 0, got 'train'"):
        cory_env.Task.from_dataset(rows)


@pytest.mark.parametrize("kind", ["parquet", "json"])
def test_other_files_and_folders_are_read_by_the_package(datasets, tmp_path, kind):
    folder = tmp_path / "folder"
    folder.mkdir()
    rows = datasets.Dataset.from_list([{**row, "n": str(row["n"])} for row in ROWS])
    getattr(rows, f"to_{kind}")(folder / f"train.{kind}")
    getattr(rows.select([1]), f"to_{kind}")(folder / f"test.{kind}")
    assert cory_env.Task.from_dataset(folder / f"train.{kind}").examples == EXAMPLES
    assert cory_env.Task.from_dataset(folder, split="test").examples == EXAMPLES[1:2]
    with pytest.raises(ValueError, match='Unknown split "dev"'):
        cory_env.Task.from_dataset(folder, split="dev")


def test_what_the_package_cannot_read_is_one_clear_error(datasets, tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"Expected a data set in .*broken.parquet, got"):
        cory_env.Task.from_dataset(tmp_path / "broken.parquet")
    with pytest.raises(ValueError, match=r"Expected a data set in .*empty, got"):
        cory_env.Task.from_dataset(tmp_path / "empty")


def test_without_the_package_the_hub_is_out_of_reach(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"openai/gsm8k', found none: pip install datasets"):
        cory_env.Task.from_dataset("openai/gsm8k", config="main")


def test_the_hub_is_asked_for_data_and_not_for_code(datasets, monkeypatch):
    calls = []

    def load_dataset(path, **options):
        calls.append((path, options))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = cory_env.Task.from_dataset("openai/gsm8k", config="main", split="test")
    assert task.examples == EXAMPLES
    assert calls == [("openai/gsm8k", {"name": "main", "split": "test"})]


QUESTION = '{"question": "a", "answer": 1}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "with rows, got none"),
        ("a.jsonl", "\n \n", "with rows, got none"),
        ("a.jsonl", QUESTION + "{oops\n", "JSON object in .*a.jsonl, line 2, got Expecting"),
        ("a.jsonl", QUESTION + "[1]\n", r"by column in .*a.jsonl, line 2, got \[1\]"),
        ("a.jsonl", "[" * 10**5 + "\n", "JSON object in .*line 1"),
        ("a.jsonl", '{"answer": ' + "1" * 9999 + "}\n", "JSON object in .*line 1"),
        (
            "a.jsonl",
            QUESTION.encode() + b'{"question": "\xff"}\n',
            r"UTF-8 in .*line 2, got b'\\xff",
        ),
        ("a.jsonl", QUESTION.encode("utf-16"), "UTF-8 in .*a.jsonl, line 1"),
        ("a.jsonl", '\n{"q": "a"}\n', r"column 'question' of .*line 2, got none.*\['q'\]"),
        ("a.jsonl", '{"question": "a"}\n', "column 'answer' of .*line 1, got none"),
        ("a.jsonl", '{"question": "a", "answer": null}', "column 'answer' of .*line 1, got none"),
        ("a.jsonl", QUESTION + '{"question": "a", "answer": NaN}', "'answer' of .*line 2, got nan"),
        ("a.jsonl", '{"question": "a", "answer": -Infinity}', "'answer' of .*line 1, got -inf"),
        ("a.jsonl", '{"question": "a", "answer": true}', "'answer' of .*line 1, got True"),
        ("a.jsonl", '{"question": "a", "answer": ""}', "text in column 'answer' of .*line 1"),
        ("a.jsonl", '{"question": " ", "answer": 1}', "text in column 'question' of .*, got ' '"),
        ("a.jsonl", '{"question": 5, "answer": 1}', "text in column 'question' of .*, got 5"),
        ("a.jsonl", '{"question": "\\ud800", "answer": 1}', "lone surrogate .* in place 0"),
        ("a.jsonl.gz", b"not gzip", "can be read, got .*a.jsonl.gz: Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(QUESTION.encode(), mtime=0)[:-9],
            "can be read, got .*a.jsonl.gz",
        ),
        ("a.csv", "", "with rows, got none"),
        ("a.csv", "question,answer\n", "with rows, got none"),
        ("a.csv", "question,answer,question\n", "line 1, got 'question' twice"),
        ("a.csv", "question,answer\na,1\nb\n", r"2 cells in .*a.csv, line 3.*got 1: \['b'\]"),
        ("a.csv", "question,answer\na,1,2\n", "2 cells in .*a.csv, line 2.*got 3"),
        ("a.csv", 'question,answer\n"a\nb",1\n"c,1\n', "cells in .*line 4, got unexpected end"),
        ("a.csv", "question,answer\na,\n", "text in column 'answer' of .*a.csv, line 2"),
        ("a.csv", "query;answer\na;1\n", r"line 2, got none: its columns are \['query;answer'\]"),
        ("a.csv", b"question,answer\n\n\xe9,1\n", r"UTF-8 in .*line 3, got b'\\xe9' in byte 1"),
        ("a.xlsx", "", r"known kind \(.jsonl, .ndjson, .csv, .*\), got .*a.xlsx"),
    ],
)
def test_a_broken_file_is_named_with_line_and_column(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        cory_env.Task.from_dataset(path)


@pytest.mark.parametrize("name", ["none.jsonl", "none.csv.gz", "none.parquet", "NONE.CSV"])
def test_a_missing_file_is_not_looked_for_on_the_hub(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"got {name}: there is no such file"):
        cory_env.Task.from_dataset(name)
    with pytest.raises(ValueError, match="no such file"):
        cory_env.Task.from_dataset(tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "test"}, ValueError, "no split .* with rows, which is one split .*'test'"),
        ({"config": "main"}, ValueError, "no config with rows.*config 'main'"),
        ({"limit": 0}, ValueError, "limit of at least 1, got 0"),
        ({"prompt": "{query}"}, ValueError, r"\{earlier\} in the prompt, got '\{query\}'"),
        ({"prompt": "{earlier}"}, ValueError, r"\{query\} in the prompt"),
        ({"quote": "{query}"}, ValueError, r"\{response\} in the quote"),
        ({"reward": lambda examples, texts: np.zeros(len(texts))}, TypeError, "name of a reward"),
    ],
)
def test_a_wrong_argument_is_named(options, error, message):
    with pytest.raises(error, match=message):
        cory_env.Task.from_dataset(ROWS, **options)


def test_a_file_has_no_splits(tmp_path):
    write_jsonl(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"with .*a.jsonl, which is one split"):
        cory_env.Task.from_dataset(tmp_path / "a.jsonl", split="train")

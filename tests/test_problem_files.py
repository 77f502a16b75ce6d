"""The recipe of the problem files, on a few lines; the files themselves are looked at in `env`."""

import json
import lzma

import pytest

from recipes import problems

GSM8K = [
    {"question": "How many?", "answer": "1 + 1 = <<1+1=2>>2 #### no\n#### 1,234"},
    {"question": "Wie viele – „drei“?", "answer": "#### -3"},
]


def test_a_problem_file_is_the_questions_with_their_numbers_byte_for_byte(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, GSM8K)), encoding="utf-8")
    for name in ("first", "second"):
        rows = problems.gsm8k_problems(tmp_path / "rows.jsonl")
        problems.write_problems(tmp_path / name, rows)
    packed = (tmp_path / "first").read_bytes()
    assert packed == (tmp_path / "second").read_bytes()
    assert lzma.decompress(packed).decode() == "How many?\t1234\nWie viele – „drei“?\t-3\n"


@pytest.mark.parametrize(
    ("target", "text"),
    [(43.0, "43"), (39, "39"), (9.43, "9.43"), (0.6666666667, "2/3"), (3.33333, "10/3")],
)
def test_a_number_is_written_exactly(tmp_path, target, text):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"input": "How many?", "target": target}))
    assert list(problems.math_problems(tmp_path / "rows.jsonl")) == [("How many?", text)]

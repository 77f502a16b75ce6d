"""The reward `answer`: which number a text gives, case by case, and that any text can be read."""

import random
import time
from fractions import Fraction

import numpy as np
import pytest

import cory_env
from cory_env.rewards.answer import final_number
from cory_env.tasks.problems import read_problems
from cory_env.types import Example

WHERE = {
    # <answer>
    "<answer>18</answer> for 4 weeks": "18",
    "<answer> 18 apples </answer>, not 3": "18",
    "<answer>$18$</answer> \\boxed{3} #### 4": "18",
    "#### 3\n<answer>18</answer>": "18",
    "<ANSWER>18</ANSWER> 3": "18",
    "<answer>18": "18",
    "<answer>3</answer> no, <answer>18</answer> 4": "18",
    "I write <answer> tags. <answer>18</answer> 3": "18",
    "<answer></answer> 18": "18",
    "<answer>eighteen</answer> 3": "3",
    "<answer>so 3 is in \\boxed{18}</answer>": "18",
    "<answer>16 - 7 = 9</answer> 3": "9",
    "<answer>First 9, then 18. The answer is 18.</answer> 3": "18",
    "<answer>(55 + 36) / 7</answer> 3": None,
    "<answer>18 for 3</answer>": None,
    "<answer>3:30</answer> 3": None,
    # ####, which closes a solution
    "9 - 4 = 5 #### 5": "5",
    "#### 5": "5",
    "####5": "5",
    "#### -5": "-5",
    "####-5": "-5",
    "#### $1,234.50.": "1234.5",
    "#### 18%": "18",
    "#### **18**": "18",
    "**#### 18**": "18",
    "#### 18 ####": "18",
    "\\#\\#\\#\\# 18": "18",
    "#### \\(18\\)": "18",
    "#### \\boxed{18}": "18",
    "#### = 18": "18",
    "#### ≈ 18": "18",
    "#### 18\nShe has 3 left.": "18",
    "#### 18\n\nTom has 3 apples. 3 + 4 = 7\n#### 7": "18",
    "2+40=42\n#### 42\n" + " and the 3 reasons above confirm = 7 this." * 20: "42",
    "9 #### 5 #### 6": "5",
    "##### 5, not 6": "5",
    "### 5, not 6": "6",
    "#### Step 1: add.\n4 + 5 = 9": "9",
    "#### Step 1\n9\n\n\\boxed{18}": "18",
    "#### Step 1\n#### 7, not 8": "7",
    "5 is the first of 6 #### none": "6",
    "4 #### 9 - 4 = 5": "5",
    "4 #### 5-10": None,
    "She left at 2. #### 3:30": None,
    # ####, which is a heading
    "#### 1. Eggs that are left\n16 - 7 = 9\n\n#### 2. What they earn\n\\boxed{18}": "18",
    "#### 1) Eggs\n9\n#### 2) Money\n18\nThe answer is 18.": "18",
    "#### 1: Eggs\n9\n#### 2: Money\n18": "18",
    "#### 1 - Eggs\n9\n#### 2 - Money\n18": "18",
    "#### **1. Eggs**\n9\n#### **2. Money**\n18": "18",
    "#### 1. Eggs\n9\n#### 2. Money\n17\n#### 18\nThat is all 3.": "18",
    "#### 1\n16 - 7 = 9\n#### 2\n9 * 2 = 18": "18",
    "#### 1. Eggs\nnine\n#### 2. Money\neighteen": None,
    "##### 3 eggs are eaten\n16 - 3 = 13": "13",
    "##### 3 eggs are eaten\nThat leaves some.\n\n\\boxed{13} of 16": "13",
    "##### 3 eggs are eaten\n16 - 3 = 13\n#### 13\nof 16": "13",
    # ####, which may be either
    "#### 18 apples": "18",
    "#### 18 apples\nShe has 3 left.": "18",
    "#### 18 (eighteen)\nof 20": "18",
    "#### 18. She has 3 left.": "18",
    "#### 9 - 4 = 5": "5",
    "#### 5 + 4": None,
    "#### 5 hours 30 minutes": None,
    "#### 3 eggs\nSome are left.\n#### 4 eggs": None,
    "#### The answer is 18, not 3": "18",
    "#### Final answer: 18 apples\n\nThanks to all 3": "18",
    # \boxed
    "\\boxed{5} or 6": "5",
    "\\boxed{5} and \\boxed{6}": "6",
    "\\boxed{5\\text{ cm}^2}": "5",
    "\\boxed{\\text{She has }5} 7": "5",
    "\\boxed{x = 5} 7": "5",
    "\\boxed{2 + 3 = 5}": "5",
    "\\boxed{2 \\times 9 = 18} 3": "18",
    "\\boxed{\\frac{1}{2}} 7": "1/2",
    "\\boxed{-3}": "-3",
    "\\boxed{- 3}": "-3",
    "\\boxed{x = - 3}": "-3",
    "\\boxed{5}, as 2 + 4 = 6": "5",
    "\\boxed{} 7 or 8": "8",
    "\\boxed{5}. I put it in \\boxed{}.": "5",
    "Put it in \\boxed{answer}. It is 18": "18",
    "\\boxed{5": "5",
    "so \\boxed{\\text{18 eggs": "18",
    "\\boxed{6} #### 5": "5",
    "the result is $\\boxed 18$ for 3 people": "18",
    "so \\boxed {18} for 3 people": "18",
    "\\boxed18 of 20": "18",
    "\\boxed\\frac{3}{4} of 8": "3/4",
    "\\boxed{\\boxed{18}} 3": "18",
    "$$\\boxed{\n18\n}$$ 3": "18",
    "\\boxed{{18}} 3": "18",
    "\\boxed{004} and \\boxed{004}": "4",
    "\\boxed{2 \\times 9} 3": None,
    "\\boxed{3, 5} 3": None,
    "\\boxed{3:30} 3": None,
    "\\boxed{2^{10}} 3": None,
    "\\boxed{2^3 + 5} 3": None,
    "\\boxed{5!} 3": None,
    "\\boxed{18\\text{ or }19} 3": None,
    "\\boxed{5 \\text{ hours } 30 \\text{ minutes}} 3": None,
    "\\boxed{1 000} 3": None,
    # The answer is
    "The answer is 5. 6 are left.": "5",
    "The answer is $18 for 3 children.": "18",
    "The answer is US$18 for 3 children.": "18",
    "The answer is $29.00. Of 3.": "29",
    "The answer is 5 + 4 = 9 toys for 3 children.": "9",
    "The answer is 3 apples + 4 apples = 7 apples of 9": "7",
    "The answer is 2^3 = 8 of 9.": "8",
    "The answer is 5 = x.": "5",
    "The answer is 3.5. Or 4?": "3.5",
    "The answer is: **18**, not 3": "18",
    "The answer is **18 apples**, not 3": "18",
    "The answer is about 18 of 20": "18",
    "The answer is \\(18\\), not 3": "18",
    "**Answer:** 18 and 3": "18",
    "**Answer**: $18$ and 3": "18",
    "Answer: `18` of 20": "18",
    '{"answer": 18, "of": 20}': "18",
    "ANSWER = 18, not 3": "18",
    "The answer is 5. No, the answer is 6, 7 of which": "6",
    "The answer is 5. I hope the answer is clear to all 3": "5",
    "The answer is Tom's: he has 3 + 5 = 8": "8",
    "The answer: 7 or \\boxed{8}": "8",
    "The answer is -5, of 3": "-5",
    "the answer is \\frac{3}{4} of 8": "3/4",
    "Answer: 16 - 7 = 9, of 3": "9",
    "Answer: 16 - 7 = 9 eggs. 9 * 2 = 18 dollars.": "18",
    "The answer is 5 + 4 = 9. Check: 9 - 4 = 5": "9",
    "The answer is 5 + 4. 2": None,
    "The answer is 5 to 10 of 3": None,
    "The answer is 5–10 of 3": None,
    "The answer is 5 or 6.": None,
    "The answer is 3:30. 2": None,
    "The answer is 5 hours and 30 minutes.": None,
    "The answer is 1 000. 3": None,
    # the last number
    "He has 3 and buys 4.": "4",
    "Tom has 2 * 3 = 6 apples": "6",
    "6 = 2 * 3": "3",
    "It takes 5 hours, from 10:30 on": "5",
    "1. She has one left.": "1",
    "1. She eats nine.\n2. She sells eight.": None,
    "\\begin{align*} 16 - 7 &= 9 \\\\ 9 \\times 2 &= 18 \\tag{1} \\end{align*}": "18",
    # what is not read: the next question
    "4 Question: 5": "4",
    "4 #### 6\n\nQuestion: a #### 7": "6",
    "16 - 7 = 9\n#### 18\n\nQuestion: How old?\nAnswer: 1 + 1 = 2\n#### 2": "18",
    "4\nQuestion 2: 5": "4",
    "4\n**Question:** 5": "4",
    "4\nQ: 5": "4",
    "4\n  Q2: 5": "4",
    "4 FAQ: 5": "5",
    "4\n\nHuman: 5": "4",
    "It is 4.Human: and 5": "4",
    "4\nUser: 5": "4",
    "4\n\nProblem: 5": "4",
    "4\n### Question\n5": "4",
    "4\n## Problem 2\n5": "4",
    "4<|im_start|>user 5": "4",
    "4<|im_end|>\n5": "4",
    "4 [INST] 5": "4",
    "#### 4 Question 2: a 7": "4",
    " 4\n\nQuestion: how many? Answer: 7\n\nQuestion: a": "4",
    "The user: 5": "5",
    # ... and what is: an answer behind its own question
    "Question: 5": None,
    "Question: Ann has 3 and buys 4?": None,
    "Question: Ann has 3 and buys 4?\nShe has 7.": "7",
    "Question: Ann has 3 and buys 4. How many?\nAnswer: 3 + 4 = 7. The answer is 7.": "7",
    "Question: Ann has 3?\nAnswer: 3 + 4 = 7.\n\nQuestion: Bob?\nThe answer is 9.": "7",
    "**Question:** How many apples?\n\n**Solution:** 3 + 4 = 7\n\n#### 7": "7",
    "Problem: Ann has 3 and buys 4.\nQuestion: How many?\nSolution: 3 + 4 = 7": "7",
    "### Question\nAnn has 3 and buys 4?\n### Answer\n7": "7",
    "1. Restate the Question: how many are left.\n2. 16 - 7 = 9\n\\boxed{9}": "9",
}
NUMBERS = {
    "0": "0",
    "007": "7",
    "5.": "5",
    "5.0": "5",
    "so .5": "1/2",
    "-.5": "-1/2",
    "...5": "5",
    "No.5": "5",
    "(5)": "5",
    "5!": "5",
    "<<2*3=6>>6": "6",
    # groups and points
    "1,234": "1234",
    "1,234,567.89": "1234567.89",
    "$1,234.50": "1234.5",
    "12,34,567": "1234567",
    "1.234": "1.234",
    "1.234,5": "1234.5",
    "1.234.567": "1234567",
    "1.234.567,8": "1234567.8",
    "12,5": "12.5",
    "0,125": "1/8",
    "1234,567": "1234.567",
    "1'234.50": "1234.5",
    "1’234": "1234",
    "1\u202f234,50": "1234.5",
    "1\u00a0234": "1234",
    "1\u2009234\u2009567": "1234567",
    "1 234": "234",
    "1{,}234": "1234",
    "1\\,234": "1234",
    "10{,}000{,}000": "10000000",
    "1,\\!234": "1234",
    "5, 6": "6",
    # fractions
    "3/4": "3/4",
    "12/60": "1/5",
    "1 1/2": "3/2",
    "-1 1/2": "-3/2",
    "5 12/3": "4",
    "½": "1/2",
    "1½": "3/2",
    "-½": "-1/2",
    "1⁄2": "1/2",
    "\\frac{3}{4}": "3/4",
    "-\\dfrac{3}{4}": "-3/4",
    "1\\frac{1}{2}": "3/2",
    "\\frac34": "3/4",
    "\\frac1{4}": "1/4",
    "\\frac {3} {4}": "3/4",
    "\\tfrac{ 3 }{ 4 }": "3/4",
    "\\cfrac{1}{2}": "1/2",
    "\\frac{{3}}{{4}}": "3/4",
    "\\frac{-3}{4}": "-3/4",
    "\\frac{3}{-4}": "-3/4",
    "-\\frac{-3}{4}": "3/4",
    "−\\frac{3}{4}": "-3/4",
    "9-\\frac{7}{2}": "7/2",
    "\\frac{1.5}{3}": "1/2",
    "\\frac{1,000}{4}": "250",
    "\\frac{1{,}000}{4}": "250",
    "\\frac{\\$6}{4}": "3/2",
    "\\frac{\\frac{1}{2}}{3}": "1/6",
    "\\frac{\\text{6}}{2}\\text{ cups}": "3",
    "5 \\frac{1}{2}": "11/2",
    "\\left(\\frac{1}{2}\\right)": "1/2",
    # powers of ten
    "1.5e3": "1500",
    "5E-1": "1/2",
    "1.5 × 10^3": "1500",
    "1.5 \\times 10^{3}": "1500",
    "1.5 \\cdot 10^3": "1500",
    "1.5 * 10**3": "1500",
    "1.5x10³": "1500",
    "3 × 10⁻³": "3/1000",
    # signs
    "+5": "5",
    "−5": "-5",
    "–5": "-5",
    "-$5": "-5",
    "$-5": "-5",
    "9-5": "5",
    "9 -5": "-5",
    "5–10": "10",
    "(9)-5": "5",
    "from 5 to 10": "10",
    # units
    "25%": "25",
    "25\\%": "25",
    "\\$25": "25",
    "25 \\text{ apples}": "25",
    "\\text{25 apples}": "25",
    "\\mathbf{25}": "25",
    "25\\ \\mathrm{kg}": "25",
    "25 \\mathrm{~kg}": "25",
    "25\\,\\text{cm}^{2}": "25",
    "\\textcolor{red}{25}": "25",
    "25 \\quad \\square": "25",
    "25\\n\\n": "25",
    "€25": "25",
    "25€": "25",
    "25kg": "25",
    "the 25th": "25",
    "$25/hour": "25",
    "30°": "30",
    "30^\\circ": "30",
    "30^{\\circ}": "30",
    "5 m²": "5",
    "5 m^2": "5",
    "5 H2O": "5",
    # other scripts
    "５": "5",
    "－１，２３４．５": "-1234.5",
    "٥": "5",
    "١٬٢٣٤٫٥": "1234.5",
    "४२": "42",
    "答案是5": "5",
    "\u202e81": "81",
    "−\u200e5": "-5",
    "\ud8005\x00": "5",
    # no numbers
    "": None,
    "nine": None,
    "10:30": None,
    "1.2.3": None,
    "1,2,3": None,
    "1,234,5": None,
    "3/4/2024": None,
    "5'10": None,
    "2^5": None,
    "10^{-3}": None,
    "10^-3": None,
    "1_000": None,
    "x2": None,
    "m²": None,
    "1/0": None,
    "1e9999": None,
    "1e999999999": None,
    "9" * 101: None,
    "9" * 100: "9" * 100,
    "1.5 × 10^9999": None,
    "a_1": None,
    "a_{1}": None,
    "101_{2}": None,
    "(3)^2": None,
    # mathematics that is not read
    "√16": None,
    "2π": None,
    "5 ± 1": None,
    "\\sqrt{16}": None,
    "\\sqrt[3]{27}": None,
    "2\\sqrt{3}": None,
    "\\pi + 5": None,
    "5 \\pm 1": None,
    "\\log_2 8": None,
    "\\sin(30)": None,
    "\\binom{5}{2}": None,
    "0.\\overline{3}": None,
    "\\frac{x}{2}": None,
    "\\frac{16-7}{3}": None,
    "\\frac{1}{\\sqrt{2}}": None,
    "\\frac{1}{2}^2": None,
    "(\\frac{1}{2})^2": None,
    "\\frac{3}{0}": None,
    "\\frac{3}{4": None,
    "\\frac123": None,
    "1,000\\frac{1}{2}": None,
    "3 apples, or $5\\sqrt{2}$.": None,
}


@pytest.mark.parametrize(("text", "number"), [*WHERE.items(), *NUMBERS.items()])
def test_the_final_number_of(text, number):
    assert final_number(text) == (None if number is None else Fraction(number))


FRAMES = ("{}", "The answer is {} of 5", "#### {}", "so \\boxed{{{}}} or 1", "<answer>{}</answer>")


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize(
    "text",
    [
        *(
            "\\foo{16}",
            "\\foo 16",
            "\\foo16",
            "\\foo(16)",
            "\\foo_{3} 16",
            "\\foo^{2} 16",
            "\\foo-3",
        ),
        *("\\foo{a}{16}", "\\foo[3]{27}", "\\foo{\\frac{1}{2}}", "\\foo\\frac12", "\\foo{x + 16"),
        *(
            "\\text{\\foo{16}}",
            "\\foo{\\text{16}}",
            "\\foo*{3}",
            "\\foo\\left(3\\right)",
            "\\foo\\,3",
        ),
        *(
            "16\\foo",
            "16 \\foo",
            "3\\,\\foo",
            "16.\\foo",
            "1/\\foo{3}",
            "\\foo{1}/2",
            "2\\cdot\\foo{3}",
        ),
        *(
            "3 + \\foo{2}",
            "\\foo{2} + 3",
            "1\\frac{1}{2}\\foo",
            "\\frac{1}{\\foo{2}}",
            "\\frac{\\foo}{2}",
        ),
    ],
)
def test_a_command_that_is_not_known_leaves_no_part_of_a_number(frame, text):
    assert final_number(frame.format(text)) is None


def written(number, rng):
    """Write a number with at most four decimals in one of many ways."""
    sign = "" if number >= 0 else rng.choice(["-", "−", "–"])
    whole, decimals = divmod(round(abs(number) * 10**4), 10**4)
    tail = f"{decimals:04}".rstrip("0")
    comma = len(tail) != 3 or whole == 0 or whole >= 1000  # else it would group
    point, all_digits = rng.choice(".,") if comma else ".", whole * 10**4 + decimals
    ways = [
        f"{whole:,}" + (f".{tail}" if tail else rng.choice(["", ".", ".0"])),
        f"{whole}" + (f".{tail}" if tail else ""),
        f"{whole:,}".replace(",", rng.choice("\u00a0\u2009\u202f'"))
        + (f"{point}{tail}" * bool(tail)),
        f"{all_digits}e-4",
        f"{all_digits} × 10^{{-4}}",
        f"{all_digits}/10000",
        f"{whole} {decimals}/10000" if tail else f"{whole}",
        f"\\{rng.choice('cdt')}frac{{{all_digits}}}{{10000}}",
        f"\\frac{{{whole}.{decimals:04}}}{{1}}",
    ]
    if tail and comma:
        ways.append(f"{whole:,}".replace(",", ".") + f",{tail}")
    text = rng.choice(ways)
    currency = rng.choice(["", "", "$"])
    text = sign + (currency if text[0].isdigit() else "") + text
    if rng.random() < 0.2:
        text = "".join(chr(ord("０") + int(c)) if c in "0123456789" else c for c in text)
    return text + rng.choice(["", " apples", "%", " kg.", "\n"])


def test_numbers_written_in_many_ways_are_read_back():
    rng = random.Random(0)
    frames = [
        "{}",
        "It is 3 - {}",
        "Tom had 5; the answer is {}",
        "#### {}",
        "so \\boxed{{{}}} or 1",
        "<answer>{}</answer> 1",
        "#### 1. Add\n3\n#### 2. Take\nThe answer is {}",
    ]
    for _ in range(5000):
        digits = rng.randrange(8)
        number = Fraction(rng.randrange(-(10**digits), 10**digits + 1), 10 ** rng.randrange(5))
        text = rng.choice(frames).format(written(number, rng))
        assert final_number(text) == number, text


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_gold_answer_of_gsm8k_scores_one(split):
    examples = read_problems(f"gsm8k_{split}")
    reward = cory_env.make_reward("answer")
    told = [f"5 * 7 = 35 #### {int(example.reference or 0):,}" for example in examples]
    assert reward(examples, [example.reference for example in examples]).all()
    assert reward(examples, told).all()
    wrong = [f"{int(example.reference or 0) + 1}" for example in examples]
    assert not reward(examples, wrong).any()


def test_a_reference_is_read_like_a_response():
    reward = cory_env.make_reward("answer")
    examples = [Example("", reference=text) for text in ("7", "3 + 4 = 7 #### 7", "14/2", "7.0")]
    np.testing.assert_array_equal(reward(examples, ["It is 7."] * 4), np.ones(4))
    np.testing.assert_array_equal(reward(examples, ["8", "", "-7", "seven"]), np.zeros(4))


@pytest.mark.parametrize("reference", [None, "", "seven"])
def test_a_reference_without_a_number_is_an_error(reference):
    with pytest.raises(ValueError, match="reference has a number"):
        cory_env.make_reward("answer")([Example("How many?", reference=reference)], ["7"])


ATOMS = (
    *("1", "1 ", "1/", "1,", ",123", ".1", "1:", "1e", "1^", "1'", "'234", "0", "1 1 ", "9/9 "),
    *("#", "#### ", "####a", "answer:", "answer is", "answer: 1=", "=", "\\boxed{", "{", "}"),
    *("\\frac{1}{", "\\frac{", "5*10^", "^{-", "-", "$", "٥", "²", "½", "\u202e", "\ud800", "\x00"),
    *("Question ", "Question:", "\nQ", " ", "\n", "a", "是", "Human: 1", "\n### Question", "</s>"),
    *("\n#### 1", "\n#### 1 a", "\n1. a", "\n1. a\n2. b", "<answer>", "<answer>1", "</answer>"),
    *(
        "\\text{",
        "\\text{1}",
        "\\sqrt{1}",
        "\\foo",
        "\\foo{",
        "\\foo[",
        "\\boxed",
        "\\boxed 1",
        "\\frac1",
    ),
    *(
        "1\\frac12",
        "{,}",
        "^{2}",
        "\\",
        "√1",
        "answer: 1+1=2 ",
        "answer is about ",
        "1 to ",
        "1 - ",
    ),
)


@pytest.mark.parametrize("atom", ATOMS)
def test_the_time_is_linear_in_any_text(atom):
    """Quadratic time on these 100 kB would be a minute."""
    start = time.perf_counter()
    final_number(atom * (100_000 // len(atom)))
    final_number("\\boxed{" + atom * (30_000 // len(atom)) + "1" * 30_000 + atom)
    assert time.perf_counter() - start < 5


def test_ten_million_digits_are_no_number_in_linear_time():
    """Half a second where the time is linear; quadratic time would be days."""
    start = time.perf_counter()
    assert final_number("9" * 10_000_000) is None
    assert time.perf_counter() - start < 30


def test_random_texts_of_telling_characters_never_raise():
    rng = random.Random(0)
    for _ in range(5_000):
        text = "".join(rng.choices((*ATOMS, "7", "12", ".", "+", "%", "€", "\\", "*", "x10"), k=12))
        number = final_number(text)
        assert number is None or isinstance(number, Fraction)

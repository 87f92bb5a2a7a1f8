"""Answers that go in circles are told from those that merely repeat a word."""

from __future__ import annotations

import pytest

from tasks.evaluation.looping import is_looping


@pytest.mark.parametrize(
    ("answer", "loops"),
    [
        ("", False),
        ("no no no no", False),
        ("a" * 39, False),
        ("a" * 40, True),
        ("The answer is 12. " + "So it is 12. " * 9, True),
        ("The answer is 12. " + "So it is 12. " * 9 + "So it", True),
        ("So it is 12. " * 3, False),
        ("So it is 12. " * 9 + "That is all.", False),
        ("one two three four five six seven eight nine ten " * 5, True),
        ("def f(x):\n    return x\n\n\ndef g(x):\n    return x\n", False),
        ("x\n" * 30 + "\n" * 50, True),
    ],
)
def test_an_answer_loops_if_it_ends_in_repetitions(answer: str, loops: bool) -> None:
    assert is_looping(answer) is loops

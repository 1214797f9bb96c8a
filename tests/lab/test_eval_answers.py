"""Promise: the number that GSM8K's exact match compares is read as a person would."""

from __future__ import annotations

from decimal import Decimal

import pytest

from dude_lab.evaluation.tasks import final_number, last_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so it is\n#### 72", "72"),
        ("#### 1,234,567", "1234567"),
        ("#### $1,200.", "1200"),
        ("#### $ 15", "15"),
        ("#### -5", "-5"),
        ("#### -$5", "-5"),
        ("#### $-5", "-5"),
        ("#### −5", "-5"),
        ("#### -0", "0"),
        ("####18", "18"),
        ("#### 18.00", "18"),
        ("#### .5", "0.5"),
        ("#### 12.", "12"),
        ("#### 25%", "25"),
        ("#### 72 clips", "72"),
        ("#### 1\nQ: another\n#### 2", "1"),
        ("3 and 4\nThe answer is: 7", "7"),
        ("The answer is 1,000 dollars.", "1000"),
        ("The answer is: 7\n#### 8", "8"),
    ],
)
def test_final_number(text, number):
    assert final_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "it is 72", "####", "#### none", "The answer is: \\sqrt{5}", "## 72"])
def test_no_final_number(text):
    assert final_number(text) is None


def test_last_number():
    assert last_number("3 + 4 = 7, so seven") == 7
    assert last_number("costs $1,234.50.") == Decimal("1234.5")
    assert last_number("from 5 to -3.") == -3
    assert last_number("nothing") is None

"""The page of `dude report` in a headless Chromium; skipped where there is none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Page, find_browser, open_browser
from test_compare_results import SHARES, filled
from test_report_page import EVIL, question

from dude_lab.report import write_page

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium on the path (DUDE_CHROMIUM names one)")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of three methods at three seeds, with a question that tries to be markup."""
    folder = tmp_path_factory.mktemp("report")
    made = filled(folder, SHARES)
    for number, place in enumerate(sorted(p for p in made.runs.iterdir() if (p / "curves.jsonl").is_file())):
        lines = [{"step": k, "loss": 3 - k / 10 + number / 100, "grad_norm": 1 + 1 / k} for k in range(1, 21)]
        lines += [{"step": k, "eval": "mini_csqa", "accuracy": k / 50} for k in (5, 10, 20)]
        (place / "curves.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
        question(place, 0, prompt=f"Q {EVIL}", generated=EVIL, correct="lora" in place.name)
    return write_page([made.path], folder / "page")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


def test_it_asks_for_nothing_and_complains_of_nothing(page: Page, file: Path) -> None:
    for width, dark in ((1400, False), (400, True)):
        page.open(file, width=width, dark=dark)
        assert page.said == []
        assert [one for one in page.requests if not one.startswith("data:")] == [file.resolve().as_uri()]
        assert page.run("document.documentElement.scrollWidth") <= width  # only the tables scroll sideways
        drawn = page.run("document.querySelectorAll('svg[role=img] > title').length")
        assert drawn == 5  # accuracy, cost, three curves
    assert page.run("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert page.run("typeof window.evil") == "undefined" and page.run("document.images.length") == 0
    page.run("document.querySelector('#first').value = 'LoRA r=16'; showAnswers()")
    assert EVIL.strip()[:40] in page.run("document.querySelector('#lists').textContent")


def test_pointing_at_a_curve_tells_the_values_of_all_methods(page: Page, file: Path) -> None:
    page.open(file)
    page.run("document.querySelector('#smooth').click()")  # as measured
    place = "document.querySelector('#chart-loss svg').getBoundingClientRect()"
    page.run("document.querySelector('#chart-loss').scrollIntoView()")
    left, top, width = (page.run(f"{place}.{one}") for one in ("left", "top", "width"))
    page.point(left + 46 + (width - 56) / 2, top + 80)  # the axis runs from step 0 to 20: its middle is step 10
    tip = page.run("document.querySelector('#chart-loss .tip').innerText")
    assert page.run("document.querySelector('#chart-loss .tip').hidden") is False
    # Runs are numbered by name: three of DoRA, three of full fine-tuning, three of LoRA; their means are 0.03 apart.
    shown = dict(re.findall(r"^(LoRA r=16|DoRA r=16|Full fine-tuning)\s+([\d.]+)$", tip, re.MULTILINE))
    assert "step 10" in tip and shown == {"LoRA r=16": "2.070", "DoRA r=16": "2.010", "Full fine-tuning": "2.040"}
    table = page.run("document.querySelector('.values').innerText")
    assert "Values at step 10" in table and "2.070" in table and "20.0" in table


def test_the_arrow_keys_do_the_same(page: Page, file: Path) -> None:
    page.open(file)
    page.run("document.querySelector('#smooth').click(); document.querySelector('#chart-loss svg').focus()")
    page.press("ArrowLeft")
    assert page.run("document.querySelector('#spoken').textContent").startswith("Step 19: LoRA r=16 1.17")
    page.press("Home")
    assert page.run("document.querySelector('#at-step').textContent") == "Values at step 0"
    focused = page.run("document.activeElement.getAttribute('aria-label')")
    assert focused == "Training loss (nats per token) against the step"


def test_the_cost_can_be_switched_and_a_method_hidden(page: Page, file: Path) -> None:
    page.open(file)
    title = "document.querySelector('#cost svg > title').textContent"
    assert page.run(title) == "Accuracy on mini_csqa against training seconds"
    page.run("document.querySelector('#cost input[value=memory]').click()")
    assert page.run(title) == "Accuracy on mini_csqa against peak memory (GiB)"
    lines = "document.querySelectorAll('#chart-loss path.stroke').length"
    assert page.run(lines) == 3
    page.run("document.querySelector('.values input').click()")
    assert page.run(lines) == 2

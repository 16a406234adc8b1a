"""FineEval: people rank answers without knowing whose they are; a model may, and is told of as what it is."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pvit_ext.evaluation.ranking.sheet import places_of
from pvit_ext.evaluation.ranking.standings import agreement, interval, mean_places, share_first, wins
from tests.data.generate.llm_server import LlmServer, Reply
from tests.evaluation.judged import images_of, run, texts_of, write_lines

DATA = os.environ.get("PVIT_EXT_DATA")
REGION = "<Region><L100><L200><L500><L900></Region>"


@pytest.fixture
def fine_eval(tmp_path: Path) -> Path:
    """Three instructions, the stored answers of two systems, and a run's."""
    Image.new("RGB", (60, 40)).save(tmp_path / "0.jpg")
    asked = [f"What is in {REGION}?", "And <b>then</b>?", f"Is {REGION} red?"]
    lines = [
        {"image": "0.jpg", "instruction": text, "instruction_no_region": f"plain {k}"} for k, text in enumerate(asked)
    ]
    write_lines(tmp_path / "instructions.jsonl", lines)
    for name in ("pvit", "llava"):
        wording = "instruction_no_region" if name == "llava" else "instruction"
        own = [
            {"image": "0.jpg", "instruction": one[wording], "output": f"{name} says <i>{k}</i>"}
            for k, one in enumerate(lines)
        ]
        write_lines(tmp_path / f"{name}.jsonl", own)
    write_lines(tmp_path / "answers.jsonl", [{"id": str(k), "answer": f"we say {k}"} for k in range(3)])
    return tmp_path


def options(folder: Path, **changed: str) -> tuple[object, ...]:
    start = ("--data", folder, "--image-folder", folder, "--answers", folder / "answers.jsonl")
    settings = {"systems": "pvit,llava", "name": "mine", **changed}
    return (*start, *(word for pair in settings.items() for word in ("--set", "=".join(pair))))


def fill(out: Path, ranks: list[dict[str, int] | None], name: str, delimiter: str = ",") -> Path:
    """The sheet of an output folder, filled with ranks by system."""
    (sheet,) = out.glob("ranking-*.csv")
    key = json.loads((out / "ranking_key.json").read_text())
    with sheet.open(newline="") as file:
        head, *rows = csv.reader(file)
    filled = [
        [*row[:2], *("" if one is None else one[key[row[0]][letter]] for letter in head[2:])]
        for row, one in zip(rows, ranks, strict=True)
    ]
    path = out.parent / name
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=delimiter).writerows([head, *filled])
    return path


def test_what_is_ranked_on_says_nothing_of_whose_it_is(
    fine_eval: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    values = run("fineeval", out, *options(fine_eval))
    said = capsys.readouterr().out
    assert values["metrics"] == {}
    assert "size of region" not in values["groups"]
    assert "No score yet" in said
    page = (out / "ranking.html").read_text()
    assert page.count("<article") == page.count("<img") == 3
    assert page.count("<select>") == 9
    assert "llava says &lt;i&gt;0" in page  # an answer is text
    named = re.sub(r"(pvit|llava) says|we say", "", page)
    assert not [name for name in ("mine", "pvit", "llava") if name in named]
    (sheet,) = out.glob("ranking-*.csv")
    assert sheet.name in page
    assert str(sheet) in said
    rows = list(csv.reader(sheet.read_text().splitlines()))
    assert [row[0] for row in rows] == ["item", "0", "1", "2"]
    key = json.loads((out / "ranking_key.json").read_text())
    assert sorted(key["0"].values()) == ["llava", "mine", "pvit"]
    sheet.write_text("half filled")
    run("fineeval", out, *options(fine_eval))
    assert sheet.read_text() == "half filled"


def test_filled_sheets_become_standings(fine_eval: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("fineeval", out, *options(fine_eval))
    first = fill(out, [{"mine": 1, "pvit": 2, "llava": 3}, {"mine": 2, "pvit": 1, "llava": 2}, None], "anna.csv")
    second = fill(out, [{"mine": 3, "pvit": 2, "llava": 1}, None, None], "ben.csv", ";")
    values = run("fineeval", out, *options(fine_eval), "--set", f"sheets={first},{second}")
    want = {"mean place": (1 + 2.5 + 3) / 3, "first": 1 / 3, "wins against pvit": 1 / 3, "wins against llava": 1.5 / 3}
    assert values["metrics"] == pytest.approx(want)
    assert values["groups"]["system"]["pvit"] == {"score": pytest.approx(5 / 3), "samples": 3}
    assert values["groups"]["rater"][str(second)] == {"score": 3.0, "samples": 1}
    assert values["judge"] is None
    text = (out / "metrics.md").read_text()
    assert "| mean place | 2.17 |" in text
    assert "| first | 33.33 |" in text
    assert "Two people put 0 % of the pairs" in text


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (r"^0,(\w+),.*$", r"0,\1,1,,2", "each answer has a rank from 1 on, or none has one"),
        (r"^0,(\w+),.*$", r"0,\1,1,0,2", "line 2: each answer has a rank from 1 on"),
        (r"^0,\w+", "0,abcdef01", "line 2: item '0' with 'abcdef01' is not of these answers"),
        (r"^1,", "7,", "line 3: item '7'"),
        (r"^item,answers", "item,marks", "lacks the columns answers"),
        (r"^([02],\w+),.*$", r"\1,,,", "nothing is ranked in these sheets"),
    ],
)
def test_a_sheet_that_is_not_of_these_answers(
    old: str, new: str, said: str, fine_eval: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run("fineeval", out, *options(fine_eval))
    path = fill(out, [{"mine": 1, "pvit": 2, "llava": 3}, None, None], "anna.csv")
    path.write_text(re.sub(old, new, path.read_text(encoding="utf-8-sig"), flags=re.MULTILINE))
    with pytest.raises(ValueError, match=re.escape(said)):
        run("fineeval", out, *options(fine_eval), "--set", f"sheets={path}")


def test_a_model_that_ranks_is_not_the_papers_metric(fine_eval: Path, tmp_path: Path) -> None:
    def reply(body: dict[str, Any], again: int) -> Reply:
        letters = {text: letter for letter, text in re.findall(r"^([A-C]): (.*)$", texts_of(body), re.MULTILINE)}
        ours = next(letter for text, letter in letters.items() if text.startswith("we say"))
        order = [ours, *(letter for letter in "ABC" if letter != ours)]
        return Reply(" > ".join(order) if "Is [1] red" not in texts_of(body) else "A, A, B")

    with LlmServer(reply) as server:
        judge = ("--judge-model", "m", "--judge-endpoint", server.url)
        values = run("fineeval", tmp_path / "out", *options(fine_eval), *judge)
        sheet = fine_eval / "answers.jsonl"
        with pytest.raises(ValueError, match="give one of them"):
            run("fineeval", tmp_path / "out", *options(fine_eval), *judge, "--set", f"sheets={sheet}")
        with pytest.raises(ValueError, match=r"there is no file a\.csv"):
            run("fineeval", tmp_path / "out", *options(fine_eval), "--set", "sheets=a.csv")
    assert values["metrics"]["mean place"] == 1.0
    assert (values["samples"], values["judge"]["samples without a verdict"]) == (2, 1)
    assert any("2 instructions are ranked" in note for note in values["notes"])
    assert any("not the paper's metric" in note for note in values["notes"])
    assert values["judge"]["name"] == "m"
    assert len(images_of(server.bodies[0])) == 1
    assert not (tmp_path / "out" / "ranking.html").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"systems": ""}, "give 1 to 7 systems"),
        ({"systems": "pvit,pvit"}, "each once"),
        ({"name": "pvit"}, "a name of its own"),
        ({"systems": "shikra"}, "no stored answers of this system"),
    ],
)
def test_systems_that_cannot_be_compared(setting: dict[str, str], said: str, fine_eval: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        run("fineeval", tmp_path / "out", *options(fine_eval, **setting))


def test_standings() -> None:
    assert places_of({"a": 1, "b": 1, "c": 5}) == {"a": 1.5, "b": 1.5, "c": 3}
    rankings = [{"a": 1.0, "b": 2.0}, {"a": 1.5, "b": 1.5}]
    assert mean_places(rankings) == {"a": 1.25, "b": 1.75}
    assert (share_first(rankings, "a"), wins(rankings, "b", "a")) == (0.75, 0.25)
    low, high = interval({str(k): [one] for k, one in enumerate(rankings * 20)}, "a")
    assert 1.1 < low < 1.25 < high < 1.4
    assert agreement({"0": rankings}) is None
    assert agreement({"0": [{"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 1.0}], "1": [{"a": 1.0, "b": 2.0}] * 2}) == 0.5


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="PVIT_EXT_DATA names no folder of real data")
def test_the_benchmarks_own_answers_side_by_side(tmp_path: Path) -> None:
    folder = Path(str(DATA), "fineeval")
    start = ("--data", folder, "--image-folder", folder / "images", "--answers", folder / "pvit.jsonl")
    values = run("fineeval", tmp_path, *start, "--set", "systems=llava,shikra,gpt4roi", "--set", "name=PVIT")
    assert values["samples"] == 130
    page = (tmp_path / "ranking.html").read_text()
    assert page.count("<article") == 130
    assert page.count('class="mark"') == 142

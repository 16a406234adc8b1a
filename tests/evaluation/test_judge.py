"""A judge behind an endpoint: what it is asked, what is made of its replies, and what of their absence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pvit_ext import cli
from pvit_ext.data.generate.reply import BadReply
from pvit_ext.evaluation.judge.choices import read_choice
from pvit_ext.evaluation.judge.images import surroundings
from pvit_ext.evaluation.judge.pairs import read_pair
from pvit_ext.evaluation.judge.prompts import fill, read_prompt
from pvit_ext.evaluation.task import TASKS
from tests.data.generate.llm_server import LlmServer, Reply
from tests.evaluation.judged import CAPTIONS, REPLIES, dlc_bench, ferret_bench, images_of, run, texts_of

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvit_ext.data.generate.client.FIRST_WAIT", 0.01)


def judge(body: dict[str, Any], again: int) -> Reply:
    """Picks what the stored replies of the test's files pick; without a question of its own, Yes."""
    text = texts_of(body)
    id = "501" if CAPTIONS["501"] in text else "502"
    for number, reply in enumerate(REPLIES[id][1:]):
        if f"Which fits {number}?" in text:
            return Reply(reply)
    return Reply(REPLIES[id][0])


def options(folder: Path, url: str) -> tuple[object, ...]:
    data = ("--data", folder, "--image-folder", folder, "--answers", folder / "captions.json")
    return (*data, "--judge-model", "wise", "--judge-endpoint", url)


def test_each_question_is_a_call_and_none_is_made_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = dlc_bench(tmp_path)
    with LlmServer(judge) as server:
        values = run("dlc-bench", tmp_path / "out", *options(folder, server.url))
        assert len(server.bodies) == 8 + 1  # "I cannot tell." was asked for again
        again = [body for body in server.bodies if len(body["messages"]) == 3]
        assert run("dlc-bench", tmp_path / "out", *options(folder, server.url)) == values
        assert len(server.bodies) == 8 + 1
    assert "That reply cannot be used" in again[0]["messages"][-1]["content"]
    want = {"positive": (1 + 0) / 2, "negative": 0.0, "average": 0.25, "recognised": 0.5}  # 501: of its pose nothing
    assert values["metrics"] == pytest.approx(want)
    assert values["judge"]["name"] == "wise"
    assert values["judge"]["prompt"] == "ours"
    assert (values["judge"]["questions"], values["judge"]["without a readable reply"]) == (8, 1)
    assert "judged by wise: average 25.00" in capsys.readouterr().out
    for name in ("metrics.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "Judged by wise" in text
        assert "this run, judge wise" in text
        assert "1 questions without a readable reply of the judge, left out" in text
    body = server.bodies[0]
    assert (body["temperature"], body["max_tokens"], "response_format" in body) == (0.0, 300, False)
    assert len(images_of(body)) == 0


def test_a_judge_that_sees_gets_the_region_and_its_mask(tmp_path: Path) -> None:
    folder = dlc_bench(tmp_path)
    with LlmServer(judge) as server:
        seeing = run("dlc-bench", tmp_path / "out", *options(folder, server.url), "--set", "judge_sees=image")
    crop, mask = images_of(server.bodies[0])
    assert crop.size == mask.size == (60, 40)  # 56 pixels at least, three times as much around, and the image's edge
    assert (crop.getpixel((0, 0)), mask.getpixel((6, 6)), mask.getpixel((20, 20))) == ((250, 0, 0), 255, 0)
    assert "of the image" in texts_of(server.bodies[0])
    assert {one["system"] for one in seeing["published"]} == {
        "GAR-1B, judge gpt-4o-2024-11-20",
        "GAR-8B, judge gpt-4o-2024-11-20",
    }


def test_a_refusal_is_no_wrong_answer(tmp_path: Path) -> None:
    """Without knowing whether an object is recognised it has no score, whatever else the judge said."""
    folder = dlc_bench(tmp_path)

    def refuses(body: dict[str, Any], again: int) -> Reply:
        if CAPTIONS["502"] in texts_of(body) and "kind" in texts_of(body).partition("Question:")[2]:
            return Reply(None, fields={"refusal": "I would rather not"})
        return judge(body, again)

    with LlmServer(refuses) as server:
        values = run("dlc-bench", tmp_path / "out", *options(folder, server.url))
    assert values["samples"] == 1
    assert values["judge"]["samples without a verdict"] == 1
    assert values["judge"]["why"]["the model refused: I would rather not"] == 1
    assert values["metrics"]["positive"] == 1.0


def test_a_judge_that_says_nothing_ends_in_an_error(tmp_path: Path) -> None:
    folder = dlc_bench(tmp_path)
    with (
        LlmServer(lambda body, again: Reply("Hm.")) as server,
        pytest.raises(ValueError, match=r"wise gave no verdict on any of 2 answers: the reply has to be one of"),
    ):
        run("dlc-bench", tmp_path / "out", *options(folder, server.url))


def test_a_judge_that_is_down_is_asked_again_by_the_same_command(tmp_path: Path) -> None:
    folder, down = dlc_bench(tmp_path), [True]
    with LlmServer(lambda body, again: Reply(status=404) if down[0] else judge(body, again)) as server:
        with pytest.raises(ValueError, match=r"judging wise at http.*have no reply .*run the same command again"):
            run("dlc-bench", tmp_path / "out", *options(folder, server.url))
        assert not (tmp_path / "out" / "metrics.json").exists()
        down[0] = False
        assert run("dlc-bench", tmp_path / "out", *options(folder, server.url))["samples"] == 2


def test_pairs_are_asked_with_the_benchmarks_rule(tmp_path: Path) -> None:
    data = ferret_bench(tmp_path)
    folders = ("--data", data, "--image-folder", tmp_path, "--answers", tmp_path / "answers.jsonl")
    with LlmServer(lambda body, again: Reply("8 4\nShort." if "Reference 1" in texts_of(body) else "8 6")) as server:
        judge_options = ("--judge-model", "wise", "--judge-endpoint", server.url)
        values = run("ferret-bench", tmp_path / "out", *folders, *judge_options)
    assert values["metrics"] == pytest.approx({"all": 16 / 24, "refer_desc": 10 / 16, "ground_conv": 6 / 8})
    assert values["judge"]["prompt"] == "rule.json of the benchmark"
    told = {texts_of(body) for body in server.bodies}
    grounded = next(text for text in told if "Where is the dog" in text)
    assert "[Assistant 1]\nReference 0.\n\n[End of Assistant 1]" in grounded
    assert "[Assistant 2]\nAt [0.250, 0.500, 0.750, 1.000] .\n" in grounded
    assert any("[Assistant 2]\nA dog.\n" in text and "at [0.125, 0.25, 0.500, 1.000] here" in text for text in told)


@pytest.mark.parametrize(
    ("reply", "want"),
    [
        ("A", 0),
        ("b. no fur", 1),
        ("No fur", 1),
        ("B. Anything", 1),
        ("It says brown fur.", 2),
        ("Fur or no fur: brown fur", 2),
        ("white fur, brown fur", 2),
        ("brown", 2),
        ("a\nbecause", 0),
        ("", None),
        ("e. x", None),
        ("I cannot tell.", None),
    ],
)
def test_reading_a_choice(reply: str, want: int | None) -> None:
    choices = ["White fur", "No fur", "Brown fur"]
    if want is None:
        with pytest.raises(BadReply, match="one of the 3 choices"):
            read_choice(reply, choices)
    else:
        assert read_choice(reply, choices) == want


@pytest.mark.parametrize(("reply", "want"), [("8 6\nwhy", (8, 6)), ("7.5, 10", (7.5, 10)), (" 8  6 ", (8, 6))])
def test_reading_a_pair(reply: str, want: tuple[float, float]) -> None:
    assert read_pair(reply) == want


@pytest.mark.parametrize("reply", ["", "8", "Both are fine: 7 and 5.", "80 60", "nan 5", "\n\nno"])
def test_no_pair(reply: str) -> None:
    with pytest.raises(BadReply, match="two numbers from 1 to 10"):
        read_pair(reply)


def test_a_prompt_is_read_from_a_text_or_a_script_that_is_not_run(tmp_path: Path) -> None:
    script, text = tmp_path / "eval.py", tmp_path / "prompt.txt"
    script.write_text('import nothing\nname = "x"\nprompt_ann = """Is {a} {b}?"""\nraise SystemExit\n')
    text.write_text("{a}: {b} {c}")
    assert read_prompt(script, ("a", "b")) == "Is {a} {b}?"
    assert fill(read_prompt(text, ("a", "b")), {"a": "{b}", "b": "2"}) == "{b}: 2 {c}"
    with pytest.raises(ValueError, match=r"has no text with \{a\}, \{d\}"):
        read_prompt(text, ("a", "d"))
    script.write_text("prompt = 'is no")
    with pytest.raises(ValueError, match="cannot be read"):
        read_prompt(script, ("a",))


def test_what_is_cut_out_has_as_much_again_on_each_side() -> None:
    assert surroundings((100, 100, 200, 160), (1000, 1000)) == (0, 40, 300, 220)
    assert surroundings((100, 100, 110, 110), (1000, 1000)) == (21, 21, 189, 189)  # 56 pixels around 105
    assert surroundings((0, 0, 60, 60), (100, 90)) == (0, 0, 100, 90)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--answers {file}", "judged by another model: give --judge-model NAME"),
        ("--answers {file} --judge-endpoint http://x/v1", "--judge-endpoint cannot apply without --judge-model NAME"),
        ("--answers {file} --judge-model m --judge-replies {file}.no", "there is no such file"),
        (
            "--answers {file} --judge-model m --judge-replies {file} --judge-endpoint http://x/v1",
            "--judge-endpoint cannot apply with --judge-replies",
        ),
        (
            "--answers {file} --judge-model m --judge-replies {file} --concurrency 2",
            "--concurrency cannot apply where no endpoint is called",
        ),
        ("--answers {file} --judge-model m --judge-replies {file}", "object 501 has no judge's replies"),
        (
            "--answers {file} --judge-model m --judge-endpoint http://x/v1 --set judge_sees=all",
            "--set judge_sees is one of text, image, got 'all'",
        ),
        (
            "--answers {file} --judge-model m --judge-endpoint http://x/v1 --set judge_prompt={file}",
            "object 501 has no judge's prompt",
        ),
        (
            "--answers {file} --judge-model m --judge-endpoint http://x/v1 --set judge_prompt=no.txt",
            "judge_prompt=no.txt: there is no such file",
        ),
        (
            "--answers {file} --judge-model m",
            "no key in the environment variable OPENAI_API_KEY: set it, or give --judge-endp",
        ),
        ("--answers {file} --batch-size 4", "--batch-size cannot apply with --answers"),
    ],
)
def test_what_cannot_apply_is_refused(
    words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    folder = dlc_bench(tmp_path / "bench")
    start = ["eval", "dlc-bench", "--data", str(folder), "--image-folder", str(folder), "--out", str(tmp_path / "out")]
    assert cli.main([*start, *words.format(file=folder / "captions.json").split()]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_task_without_a_judge_refuses_one(own_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(own_set / "data.jsonl")
    words = ["--data", data, "--image-folder", str(own_set), "--out", str(tmp_path / "out"), "--answers", data]
    assert cli.main(["eval", "own", *words, "--judge-model", "m", "--judge-endpoint", "http://x/v1"]) == 2
    assert "own is scored without a judge" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "missing"),
    [("dlc-bench", "qa.json"), ("ferret-bench", "rule.json"), ("mdvp-bench", "rule.json"), ("gqa", "Is a directory")],
)
def test_data_of_another_benchmark_is_answered_with_what_the_task_takes(
    task: str, missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").touch()
    folders = ["--data", str(tmp_path), "--image-folder", str(tmp_path), "--out", str(tmp_path / "out")]
    assert cli.main(["eval", task, *folders, "--answers", str(tmp_path / "a.jsonl")]) == 2
    said = capsys.readouterr().err
    assert f"--data {tmp_path} is not what {task} takes" in said
    assert missing in said
    assert TASKS.require(task).about in said

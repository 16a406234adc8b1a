"""``pvit-ext ask --file`` and ``--folder``: what is refused, and files of answers from tiny models of both hosts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import pvit_ext
from pvit_ext.cli.parser import main
from pvit_ext.inference.answering import Asking
from tests.hosts.test_asking import CHOSEN
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST, Parts, make, photo, save

ROOT = Path(__file__).parents[2]
HOSTS = ["llava/llama", *(["transformers/llava"] if HAS_TRANSFORMERS_HOST else [])]
QUESTION = "what is in <region> ?"


def folder_of(path: Path) -> Path:
    """Pictures, a file of questions with two bad ones, and COCO's boxes."""
    for number in range(3):
        photo(60 + 10 * number, 50, number).save(path / f"{number}.png")
    (path / "broken.png").write_bytes((path / "0.png").read_bytes()[:2000])
    boxes = [[x, y, x + 20, y + 15] for x in (0, 15, 30) for y in (2, 20)]
    asked = [
        {"id": f"{number}-{box[:2]}", "image": f"{number}.png", "question": QUESTION, "regions": [box]}
        for number in range(3)
        for box in boxes
    ]
    asked.insert(4, {"id": "no words", "image": "0.png", "question": QUESTION, "regions": []})
    asked.insert(7, {**asked[0], "id": "no pixels", "image": "broken.png"})
    (path / "q.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    (path / "good.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked if "no" not in one["id"]))
    annotations = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": [*box[:2], 20, 15], "iscrowd": 0}
        for n, box in enumerate(boxes)
    ]
    coco = {"images": [{"id": 1, "file_name": "1.png", "width": 70, "height": 50}], "annotations": annotations}
    (path / "coco.json").write_text(json.dumps({**coco, "categories": [{"id": 1, "name": "dog"}]}))
    return path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "give QUESTION and --image FILE, or --file QUERIES, or --folder DIR"),
        ("why? --out a", "--out is for many questions"),
        (
            "why? --image 0.png --normalized",
            "--normalized is of the coordinates of --box, --point, --polygon and --scri",
        ),
        ("<region> --image 0.png --normalized --mask 0.png", "and none is given: leave it out"),
        ("why? --image 0.png --batch-size 2 --question x", "--batch-size, --question is for many questions"),
        ("--file q.jsonl", "many questions need --out"),
        ("--file none.jsonl --out a", "--file none.jsonl: there is no such file"),
        ("--file q.jsonl --out q.jsonl", "is the file of the questions"),
        ("--file q.jsonl --out .", "is a folder; name a file"),
        ("--file q.jsonl --out a --image-folder none", "--image-folder none: there is no such folder"),
        ("--file q.jsonl --out a --folder .", "give one of them"),
        ("--file q.jsonl --out a --regions coco.json --format coco", "--regions, --format goes with --folder"),
        ("--file q.jsonl --out a --box 1 2 3 4 --point 1 2", "--box, --point is of one question, --file brings many"),
        ("why? --file q.jsonl --out a --image 0.png", "QUESTION, --image is of one question"),
        ("--file q.jsonl --out a --normalized", "--normalized is of one question"),
        ("--folder . --out a", "--folder DIR needs --regions FILE and --question"),
        ("--folder . --out a --regions none.json --question <region>", "--regions none.json: there is no such"),
        ("--folder none --out a --regions coco.json --question <region>", "--folder none: there is no such folder"),
        ("--folder . --image-folder . --out a", "--image-folder goes with --file"),
        ("--folder . --out a --regions coco.json --question it", "has one <region>, this has 0"),
        ("--folder . --out a --regions coco.json --question <region> --format xyz", "xyz"),
        ("--file q.jsonl --out a --language-model m2", "--language-model goes with --to prompt-embeds"),
        ("why? --image 0.png --to prompt-embeds", "--to is for many questions"),
        ("--file q.jsonl --out a --to prompt-embeds", "--to prompt-embeds needs --language-model"),
        ("--file q.jsonl --out a --to prompt-embeds --scores", "no answers to score or choose yet"),
        ("--file q.jsonl --out 0.png --to prompt-embeds --language-model m2", "--out 0.png exists"),
        ("--file q.jsonl --out a --to prompt-embeds --language-model m2", "2 bad records"),
        ("--file q.jsonl --out a --choices a,b --scores", "leave --scores out"),
        ("--file q.jsonl --out a --choices a,b --max-new-tokens 3", "leave one of them out"),
        ("--file q.jsonl --out a", "2 bad records, --max_bad_records allows 0"),
    ],
)
def test_what_is_wrong_missing_or_does_not_apply(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder_of(tmp_path))
    (tmp_path / "q.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "llava_llama"}')
    assert main(["ask", "--model", "m", *words.split()]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("config", "cuda"),
    [
        ({"model_type": "llava_llama"}, "float16"),
        *(
            [({"model_type": "llava", "dtype": "bfloat16", "vision_config": {}}, "bfloat16")]
            if HAS_TRANSFORMERS_HOST
            else []
        ),
    ],
)
def test_a_run_is_not_continued_in_another_dtype(
    config: dict[str, Any], cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()
    model = str(tmp_path)
    assert Asking(model, "mark", device="cpu").depends()["dtype"] == "float32"
    assert Asking(model, "mark", device="cpu", dtype="bf16").depends()["dtype"] == "bfloat16"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert Asking(model, "mark").depends()["dtype"] == cuda
    assert Asking(model, "mark", dtype="float16").depends()["dtype"] == "float16"


@pytest.mark.parametrize(("words", "said"), [("--choices a", "two or more"), ("--batch-size 0", "no whole number")])
def test_wrong_values_are_refused(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ask", "why?", *words.split()])
    assert said in capsys.readouterr().err


@pytest.fixture(scope="module", params=HOSTS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose answers differ."""
    host = make(request.param, tmp_path_factory)
    parts: Parts = host.talking(CHOSEN)
    return save(host, parts, tmp_path_factory.mktemp("model") / "saved")


Ask = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


@pytest.fixture
def ask(model: Path, tmp_path: Path) -> Ask:
    folder_of(tmp_path)

    def run(*words: str, out: str = "a.jsonl") -> tuple[int, dict[str, dict[str, Any]]]:
        given = ["--model", str(model), "--device", "cpu", "--out", str(tmp_path / out)]
        if "--choices" not in words:
            given += ["--max-new-tokens", "4"]
        status = main(["ask", *given, *words])
        return status, lines(tmp_path / out)

    return run


def lines(path: Path) -> dict[str, dict[str, Any]]:
    _, *rest = map(json.loads, path.read_text().splitlines())
    return {one["id"]: one for one in rest}


def command(model: Path, folder: Path, out: str) -> list[str]:
    words = ["-m", "pvit_ext.cli", "ask", "--model", str(model), "--device", "cpu", "--max-new-tokens", "4"]
    return [*words, "--file", str(folder / "good.jsonl"), "--out", str(folder / out), "--batch-size", "2", "--scores"]


@pytest.mark.slow
def test_a_file_of_questions(
    ask: Ask, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad ones are named and the rest is answered; the same command goes on, another is refused."""
    file = str(tmp_path / "q.jsonl")
    status, found = ask("--file", file, "--max_bad_records", "1", "--batch-size", "4")
    assert status == 1  # one was found while asking
    told = capsys.readouterr()
    assert "18 answers, 0 of them from before" in told.out
    assert "2 bad questions" in told.err
    assert "(id 'no pixels'): cannot read its image" in told.err
    assert "(id 'no words'): " in told.err
    assert len((tmp_path / "a.jsonl.bad.jsonl").read_text().splitlines()) == 2
    assert list(found) == [json.loads(line)["id"] for line in (tmp_path / "good.jsonl").read_text().splitlines()]
    tokenizer, loaded, processor, _ = pvit_ext.load_pretrained_model(str(model), device="cpu")
    query = pvit_ext.Query(tmp_path / "0.png", QUESTION, [pvit_ext.Region.box(0, 2, 20, 17)])
    assert pvit_ext.ask(loaded, tokenizer, processor, [query], 4) == [found["0-[0, 2]"]["answer"]]
    before = (tmp_path / "a.jsonl").read_bytes()
    assert ask("--file", file, "--max_bad_records", "2")[0] == 0
    assert "18 answers, 18 of them from before" in capsys.readouterr().out
    assert (tmp_path / "a.jsonl").read_bytes() == before
    assert ask("--file", file, "--max_bad_records", "2", "--scores")[0] == 2
    assert "another run (scores was False, is True)" in capsys.readouterr().err
    changed = (tmp_path / "q.jsonl").read_text().replace('"regions": [[0, 2, 20, 17]]', '"regions": [[0, 2, 21, 17]]')
    (tmp_path / "q.jsonl").write_text(changed)
    assert ask("--file", file, "--max_bad_records", "2")[0] == 2
    assert "answers another question of the id '0-[0, 2]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_with_regions_choices_and_scores(ask: Ask, tmp_path: Path) -> None:
    given = ["--folder", str(tmp_path), "--regions", str(tmp_path / "coco.json"), "--question", QUESTION]
    status, found = ask(*given, "--scores")
    assert status == 0
    assert list(found) == [f"1.png#{n}" for n in range(6)]
    assert {"answer", "log_likelihood", "per_token", "tokens", "image", "region", "label"} < set(found["1.png#0"])
    status, chosen = ask(*given, "--choices", '["a dog", "the cat"]', out="b.jsonl")
    assert status == 0
    for one in chosen.values():
        best = max(one["choices"], key=lambda own: own["log_likelihood"])
        assert one["answer"] == best["text"]
        assert [own["text"] for own in one["choices"]] == ["a dog", "the cat"]


@pytest.mark.slow
def test_requests_for_an_engine_that_takes_embeddings(ask: Ask, tmp_path: Path, model: Path) -> None:
    words = ["ask", "--model", str(model), "--file", str(tmp_path / "good.jsonl"), "--out", str(tmp_path / "r.jsonl")]
    words += ["--to", "prompt-embeds", "--language-model", str(tmp_path / "text"), "--device", "cpu"]
    assert main(words) == 0
    requests = list(map(json.loads, (tmp_path / "r.jsonl").read_text().splitlines()))
    assert len(requests) == 18
    assert requests[0]["id"] == "0-[0, 2]"
    assert requests[0]["body"]["model"] == str(tmp_path / "text")
    assert json.loads((tmp_path / "text" / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.slow
def test_one_question_with_scores_and_choices(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (60, 50), "red").save(tmp_path / "a.png")
    words = ["ask", QUESTION, "--image", str(tmp_path / "a.png"), "--box", "1", "2", "30", "40", "--model", str(model)]
    assert main([*words, "--device", "cpu", "--max-new-tokens", "3", "--scores"]) == 0
    answer, about = capsys.readouterr().out.splitlines()[-2:]
    assert answer
    assert about.startswith("log-likelihood -")
    assert main([*words, "--device", "cpu", "--choices", "a dog,a cat"]) == 0
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert sorted(row.partition(":")[0] for row in rows) == ["a cat", "a dog"]


@pytest.mark.slow
def test_killed_at_any_time_it_goes_on_and_ranks_write_the_same(model: Path, tmp_path: Path) -> None:
    folder_of(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *command(model, tmp_path, "one.jsonl")], check=True, cwd=ROOT, env=environment)
    killed = tmp_path / "killed.jsonl"
    running = subprocess.Popen([sys.executable, *command(model, tmp_path, killed.name)], cwd=ROOT, env=environment)
    while not killed.exists() or killed.read_bytes().count(b"\n") < 4:
        assert running.poll() is None
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert 3 <= len(lines(killed)) < 18
    subprocess.run([sys.executable, *command(model, tmp_path, killed.name)], check=True, cwd=ROOT, env=environment)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*launch, *command(model, tmp_path, "two.jsonl")], check=True, cwd=ROOT, env=environment)
    one, two = lines(tmp_path / "one.jsonl"), lines(tmp_path / "two.jsonl")
    assert list(one) == list(two) == list(lines(killed))
    assert {id: line["answer"] for id, line in lines(killed).items()} == {
        id: line["answer"] for id, line in one.items()
    }
    for id, line in one.items():
        assert line["answer"] == two[id]["answer"]
        assert line["log_likelihood"] == pytest.approx(two[id]["log_likelihood"], abs=1e-4)
    assert not [*tmp_path.glob("*.rank*")]


def test_unknown_tasks_are_all_named_before_the_model_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [{"id": str(number), "question": "where ?", "lion_task": task} for number, task in enumerate("ab")]
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in [*asked, {"id": "2", "question": "where ?"}]))
    config = pvit_ext.RegionConfig(lion_adapters=4)
    monkeypatch.setattr("pvit_ext.evaluation.identity.stored_region_config", lambda *_: config)
    monkeypatch.setattr("pvit_ext.evaluation.identity.checkpoint_mark", lambda *_: "mark")
    words = ["ask", "--file", str(file), "--model", str(tmp_path), "--out", str(tmp_path / "a.jsonl")]
    assert main([*words, "--device", "cpu"]) == 2
    told = capsys.readouterr().err
    assert "2 bad records" in told
    for number, task in enumerate("ab"):
        assert f"q.jsonl line {number + 1} (id '{number}'): the task '{task}' is none of the model's" in told
    assert not (tmp_path / "a.jsonl").exists()

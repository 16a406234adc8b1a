"""Options of ``pvit-ext data generate`` that are wrong, without effect, or need what is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pvit_ext import cli
from tests.data.generate.conftest import Run
from tests.data.generate.samples import scene, write_scenes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--strategy", "nonsense"], "unknown strategy 'nonsense'; known: small_objects"),
        (["--max-cost", "1"], "--max-cost needs --price-in"),
        (["--batch", "BATCH", "--sample", "2"], "do not go with it"),
        (["--batch", "BATCH", "--workers", "2"], "--batch makes no calls: --workers does not go with it"),
        (["--batch", "BATCH", "--requests-per-minute", "3"], "--requests-per-minute does not go with it"),
        (["--batch", "BATCH", "--concurrency", "8"], "--batch makes no calls: --concurrency does not go with it"),
        (["--batch", "BATCH", "--timeout", "9"], "--batch makes no calls: --timeout does not go with it"),
        (["--batch", "BATCH", "--tries", "6"], "--batch makes no calls: --tries does not go with it"),
        (["--batch", "BATCH", "--tries", "1"], "--batch makes no calls: --tries does not go with it"),
        (["--batch", "BATCH", "--api-key-name", "KEY"], "--batch makes no calls: --api-key-name does not go with it"),
        (["--batch", "BATCH", "--estimate"], "--estimate is of all dialogues: --batch does not go with it"),
        (["--sample", "2", "--estimate"], "--estimate is of all dialogues: --sample does not go with it"),
        (["--price-in", "5"], "--price-in and --price-out go together"),
        (["--price-out", "5"], "--price-in and --price-out go together"),
        (["--extra", '{"model": "x"}'], "--extra holds 'model', which --model gives"),
        (["--extra", '{"top_p": 1, "seed": 3}'], "--extra holds 'seed', which --seed gives"),
        (["--extra", '{"temperature": 3}'], "--extra holds 'temperature', which --temperature gives"),
        (["--extra", '{"max_tokens": 3}'], "--extra holds 'max_tokens', which --max-tokens gives"),
        (["--extra", '{"max_completion_tokens": 3}'], "which --max-tokens gives"),
        (["--extra", '{"response_format": null}'], "--extra holds 'response_format', which --response-format gives"),
        (["--extra", '{"messages": []}'], "--extra holds 'messages', which each call has its own of"),
        (["--extra", '{"stream": true}'], "--extra holds 'stream'"),
        (["--captions", "STRANGE"], "none of its 2 images is among the usable"),
        (["--image-side", "512"], "--image-side applies to sent images only"),
        (["--ledger", "OTHER"], "is no ledger"),
        (["--ledger", "OTHER", "--estimate"], "is no ledger"),
        (["--ledger", "SCENES"], "is the file of annotations"),
        (["--out", "SCENES"], "is the file of annotations"),
        (["--out", "CAPTIONS", "--captions", "CAPTIONS"], "is the file of --captions"),
        (["--ledger", "CAPTIONS", "--captions", "CAPTIONS"], "is the file of --captions"),
        (["--out", "LINK", "--captions", "CAPTIONS"], "is the file of --captions"),
        (["--ledger", "OUT"], "--ledger OUT is --out too; name another"),
        (["--ledger", "DEAD"], "--ledger DEAD is the file of dead letters"),
        (["--ledger", "PAGE", "--sample", "1"], "is the page of --sample"),
        (["--captions", "DEAD"], "is the file of --captions"),
        (["--out", "FOLDER"], "--out FOLDER is a folder; name a file"),
        (["--ledger", "FOLDER"], "--ledger FOLDER is a folder; name a file"),
        (["--out", "SCENES/out.jsonl"], "SCENES is no folder"),
    ],
)
def test_wrong_options(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    path = write_scenes(tmp_path, scene())
    files = {"SCENES": path, "OTHER": tmp_path / "other.json", "LINK": tmp_path / "link", "FOLDER": tmp_path / "folder"}
    files |= {name: tmp_path / f"out.{name.lower()}.jsonl" for name in ("DEAD", "CAPTIONS")}
    files |= {"BATCH": tmp_path / "batch", "OUT": tmp_path / "out.jsonl", "PAGE": tmp_path / "out.sample.html"}
    files["OTHER"].write_text('[{"image": "s1.jpg"}]')  # a line that does not end, as of a ledger that was cut off
    (tmp_path / "strange.jsonl").write_text('{"image": "a", "captions": ["A."]}\n{"image": "b", "captions": ["B."]}\n')
    files["STRANGE"] = tmp_path / "strange.jsonl"
    for name in ("CAPTIONS", "DEAD"):
        files[name].write_bytes(path.read_bytes())
    files["LINK"].symlink_to(files["CAPTIONS"])
    files["FOLDER"].mkdir()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}

    def filled(text: str) -> str:
        for name, file in files.items():
            text = re.sub(rf"\b{name}\b", str(file), text)
        return text

    assert run("http://127.0.0.1:9/v1", *map(filled, options)) == 2
    assert filled(words) in capsys.readouterr().err
    after = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    assert {name: text for name, text in after.items() if text} == before  # a ledger may be there, without a call


@pytest.mark.parametrize(
    "options",
    [["--max_bad_records", "-1"], ["--workers", "0"], ["--backend", "spark"], ["--temperature", "nan"],
     ["--temperature", "-1"], ["--temperature", "inf"]],
)  # fmt: skip
def test_options_of_the_map_step_that_are_none(run: Run, tmp_path: Path, options: list[str]) -> None:
    write_scenes(tmp_path, scene())
    with pytest.raises(SystemExit):
        run("http://127.0.0.1:9/v1", *options)


def test_openai_needs_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    path = write_scenes(tmp_path, scene())
    words = [str(path), "--image-folder", str(tmp_path), "--out", str(tmp_path / "out.jsonl"), "--model", "m"]
    assert cli.main(["data", "generate", *words]) == 2
    assert "no key in the environment variable OPENAI_API_KEY" in capsys.readouterr().err


def test_missing_packages_are_named_in_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.metadata

    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "tenacity":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.10.2" if name == "pydantic" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    write_scenes(tmp_path, scene())
    assert run("http://127.0.0.1:9/v1") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'needs pydantic>=2.4 (found 1.10.2), tenacity (not installed): pip install "pvit-ext[generate]"' in line

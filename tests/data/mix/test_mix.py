"""``pvit-ext data mix``: what is taken of each source, in which order, and under which names."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from pvit_ext import cli
from pvit_ext.data.check import validate
from pvit_ext.data.convert import output
from pvit_ext.data.convert.run import Job, convert
from pvit_ext.data.mix import run
from pvit_ext.data.mix.config import Mix, MixSource
from pvit_ext.data.mix.run import interleaved, mix_files
from tests.data.convert.truth import FIXTURES
from tests.data.mix.samples import write_records


def _mixed(tmp_path, *sources, **fields):
    report = mix_files(Mix("mix.yaml", sources, **fields), tmp_path / "out.jsonl")
    with (tmp_path / "out.jsonl").open() as lines:
        return [json.loads(line) for line in lines], report


def _by_source(records):
    return Counter(one["id"].partition(":")[0] for one in records)


def test_weights_counts_and_caps_are_met_exactly(tmp_path):
    files = [(write_records(tmp_path / f"{name}.jsonl", 100),) for name in "abcde"]
    sources = [
        MixSource("half", files[0], 0.5), MixSource("twice", files[1], 2.3), MixSource("count", files[2], count=250),
        MixSource("cap", files[3], at_most=30), MixSource("few", files[4], at_most=1000),
    ]  # fmt: skip
    records, report = _mixed(tmp_path, *sources)
    assert _by_source(records) == {"half": 50, "twice": 230, "count": 250, "cap": 30, "few": 100}
    assert report.counts["records"] == 660
    assert report.counts["records of cap"] == 30
    assert len({one["id"] for one in records}) == 660
    times = Counter(one["id"].partition("@")[0] for one in records if one["id"].startswith("count:"))
    assert set(times.values()) == {2, 3}
    assert "count: 250 taken of 100 usable records, each 2.5 times" in report.remarks
    assert "few: it has fewer than the 1,000 that the mixture wants" in report.remarks
    assert validate(tmp_path / "out.jsonl") == []


def test_the_seed_chooses_and_nothing_else_does(tmp_path):
    source = MixSource("a", (write_records(tmp_path / "a.jsonl", 200),), 0.1)
    first, again, other = (_mixed(tmp_path, source, seed=seed)[0] for seed in (0, 0, 1))
    assert first == again != other
    assert [int(one["id"].rpartition("/")[2]) for one in first] == sorted(
        int(one["id"].rpartition("/")[2]) for one in first
    )


def test_any_part_has_the_proportions_of_all():
    order = list(interleaved([100, 10, 1]))
    assert Counter(order) == {0: 100, 1: 10, 2: 1}
    for start in range(0, 100, 11):
        assert order[start : start + 11].count(1) == 1
    assert order.index(2) in range(50, 60)
    assert list(interleaved([0, 2])) == [1, 1]


def test_tasks_and_images(tmp_path):
    one = write_records(tmp_path / "a.jsonl", 4, task="counting")
    two = write_records(tmp_path / "b.jsonl", 3, task="relation", image=["x/a.jpg"], regions=[{"mask": "m.png"}])
    bare = write_records(tmp_path / "c.jsonl", 2)
    records, report = _mixed(tmp_path, MixSource("s", (one, two, bare), tasks=("relation",), images="coco"))
    assert [record["id"] for record in records] == ["s:b/0", "s:b/1", "s:b/2"]
    assert records[0]["image"] == ["coco/x/a.jpg"]
    assert records[0]["regions"] == [{"mask": "coco/m.png"}]
    assert report.counts["records with the task relation"] == 3
    (tmp_path / "bare").mkdir()
    assert _mixed(tmp_path / "bare", MixSource("s", (bare,)))[1].counts["records that name no task"] == 2
    assert "s: left out for their task: 4 of counting, 2 of no task named" in report.remarks
    with pytest.raises(
        ValueError, match=r"none of 9 records in .* is usable of the tasks count; records of other tasks: 4 of counting"
    ):
        _mixed(tmp_path, MixSource("s", (one, two, bare), tasks=("count",)))


def test_a_task_of_no_record_is_told(tmp_path):
    path = write_records(tmp_path / "a.jsonl", 4, task="counting")
    _, report = _mixed(tmp_path, MixSource("s", (path,), tasks=("counting", "countng", "relation")))
    assert "WARNING: s: no record has the task countng: is it counting?" in report.remarks
    assert "WARNING: s: no record has the task relation" in report.remarks
    assert not any("counting:" in remark or remark.endswith("task counting") for remark in report.remarks)


def test_files_of_evaluation_data_are_not_named_in_vain(tmp_path, capsys):
    write_records(tmp_path / "a.jsonl", 4)
    (tmp_path / "mix.yaml").write_text("sources: {a: a.jsonl}\nheld_out: missing.txt")
    words = ["data", "mix", str(tmp_path / "mix.yaml"), "--out", str(tmp_path / "out.jsonl")]
    assert cli.main([*words, "--no-exclude-leaks"]) == 2
    assert "mix.yaml: held_out names photographs to leave out, --no-exclude-leaks keeps" in capsys.readouterr().err
    (tmp_path / "mix.yaml").write_text("sources: {a: a.jsonl}")
    assert cli.main([*words, "--no-exclude-leaks"]) == 0


def test_arrays_lines_and_text_of_any_script(tmp_path):
    array = tmp_path / "array.json"
    records = [json.loads(line) for line in write_records(tmp_path / "a.jsonl", 3).read_text().splitlines()]
    records[1]["conversations"][1]["value"] = "犬 \u2028 \U0001f415"
    array.write_text(json.dumps(records, indent=1), encoding="utf-16")
    del records[2]["id"]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, records)))
    found, _ = _mixed(tmp_path, MixSource("s", (array, tmp_path / "lines.jsonl")))
    assert [one["id"] for one in found] == ["s:a/0", "s:a/1", "s:a/2", "s:a/0", "s:a/1", "s:lines.jsonl-3"]
    assert found[1]["conversations"][1]["value"] == records[1]["conversations"][1]["value"]


def test_ids_that_are_given_twice_are_told_about(tmp_path):
    _, report = _mixed(tmp_path, MixSource("s", (write_records(tmp_path / "a.jsonl", 5, id="same"),)))
    assert "s: 4 records have an id that an earlier one has; they keep it" in report.remarks


def test_bad_records(tmp_path):
    path = write_records(tmp_path / "a.jsonl", 3)
    path.write_text(
        path.read_text() + '{"id": "x", "image": "a.jpg", "conversations": []}\n{"id": \n' + path.read_text()
    )
    mix = Mix("mix.yaml", (MixSource("s", (path,)),))
    with pytest.raises(
        ValueError, match=r"1 bad items in mix\.yaml, .* allows 0(.|\n)*a\.jsonl line 4 \(id 'x'\): conversations"
    ):
        mix_files(mix, tmp_path / "out.jsonl")
    assert {one.name for one in tmp_path.iterdir()} == {"a.jsonl"}
    report = mix_files(mix, tmp_path / "out.jsonl", max_bad_records=2)
    assert (report.counts["records"], report.dropped["bad"]) == (6, 2)
    path.write_text("[" + path.read_text().splitlines()[0] + ",")
    with pytest.raises(ValueError, match=r"a\.jsonl line 1: .*; nothing behind it can be read"):
        mix_files(mix, tmp_path / "out.jsonl", max_bad_records=9)


@pytest.mark.parametrize("text", ["", "[]", "\n\n", "{}\n"])
def test_an_empty_source(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text)
    mix = Mix(
        "mix.yaml",
        (MixSource("full", (write_records(tmp_path / "b.jsonl", 3),)), MixSource("s", (tmp_path / "a.jsonl",))),
    )
    with pytest.raises(ValueError, match=r"source 's': none of \d records in .*a\.jsonl is usable"):
        mix_files(mix, tmp_path / "out.jsonl", max_bad_records=1)
    assert {one.name for one in tmp_path.iterdir()} == {"a.jsonl", "b.jsonl"}


def test_paths(tmp_path):
    path = write_records(tmp_path / "a.jsonl", 3)
    mix = Mix("mix.yaml", (MixSource("s", (path,)),))
    with pytest.raises(ValueError, match=r"--out .*a\.jsonl is what is read"):
        mix_files(mix, path)
    with pytest.raises(ValueError, match="is no folder; make it"):
        mix_files(mix, tmp_path / "none/out.jsonl")
    with pytest.raises(ValueError, match=r"source 's': .*b\.jsonl is no file"):
        mix_files(Mix("mix.yaml", (MixSource("s", (tmp_path / "b.jsonl",)),)), tmp_path / "out.jsonl")


def test_photographs_of_val_and_test_are_left_out(tmp_path):
    refs = tmp_path / "refs.jsonl"
    convert(Job("refcoco", FIXTURES / "refcoco/refcoco", FIXTURES / "refcoco/images", refs))
    names = ["train2017/000000000102.jpg", "val2017/000000000007.jpg", "train2017/000000000008.jpg"]
    coco = [write_records(tmp_path / f"{number}.jsonl", 1, image=name) for number, name in enumerate(names)]
    sources = MixSource("refs", (refs,)), MixSource("coco", tuple(coco))
    records, report = _mixed(tmp_path, *sources)
    assert [one["id"] for one in records if one["id"].startswith("coco")] == ["coco:2/0"]
    assert report.dropped["held_out"] == 2
    assert "102.jpg is coco 102, which refcoco refs(unc) val needs" in report.shown["held_out"][0]
    assert "an image that evaluation needs" in str(report)
    records, report = _mixed(tmp_path, sources[1], held_out=(tmp_path / "2.jsonl",))
    assert not any("--held-out" in remark for remark in report.remarks)
    assert [one["id"] for one in records] == ["coco:0/0"]
    (tmp_path / "names.txt").write_text("12345\n")
    remarks = _mixed(tmp_path, sources[1], held_out=(tmp_path / "names.txt",))[1].remarks
    assert remarks[-1].startswith("WARNING: --held-out: none of 1 photographs that it names met an image: 12345; give")
    mix_files(Mix("mix.yaml", sources), tmp_path / "out.jsonl", exclude_leaks=False)
    assert (tmp_path / "out.jsonl").read_text().count("coco:") == 3
    with pytest.raises(
        ValueError, match="is usable; 1 are of photographs that evaluation needs, --no-exclude-leaks keeps"
    ):
        _mixed(tmp_path, MixSource("val", (coco[1],)))
    (tmp_path / "refs.jsonl.report.json").write_text('{"held_out": 3}')
    assert _mixed(tmp_path, *sources)[1].dropped["held_out"] == 1


class _Stopped(Exception):
    """Stands for whatever ends a process."""


def test_an_interrupted_mixture_goes_on_where_it_stood(tmp_path, monkeypatch):
    sources = (
        MixSource("a", (write_records(tmp_path / "a.jsonl", 900),), 1.5),
        MixSource("b", (write_records(tmp_path / "b.jsonl", 300),)),
    )
    bad = tmp_path / "a.jsonl"
    bad.write_text(bad.read_text() + "{}\n")
    mix = Mix("mix.yaml", sources)
    mix_files(mix, tmp_path / "whole.jsonl", 1)
    monkeypatch.setattr(output, "_EVERY", 0.0)
    real, written = run.json_line, []

    def stopping(record):
        written.append(record["id"])
        if len(written) == 1000:
            raise _Stopped
        return real(record)

    monkeypatch.setattr(run, "json_line", stopping)
    with pytest.raises(_Stopped):
        mix_files(mix, tmp_path / "out.jsonl", 1)
    assert not (tmp_path / "out.jsonl").exists()
    report = mix_files(mix, tmp_path / "out.jsonl", 1)
    assert len(written) == 1000 + 1650 - 3 * 256  # three batches were not written again
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert (report.counts["records"], report.dropped["bad"]) == (1650, 1)


@pytest.mark.slow
def test_a_killed_mixture_leaves_no_file_and_goes_on(tmp_path):
    write_records(tmp_path / "a.jsonl", 40000)
    (tmp_path / "mix.yaml").write_text("sources: {a: {files: a.jsonl, weight: 2}}")
    code = "import sys; from pvit_ext.data.convert import output; output._EVERY = 0.0; from pvit_ext import cli; "
    words = ["data", "mix", str(tmp_path / "mix.yaml"), "--out"]
    command = [sys.executable, "-c", code + "sys.exit(cli.main(sys.argv[1:]))", *words]
    process = subprocess.Popen([*command, str(tmp_path / "out.jsonl")])
    state = tmp_path / "out.jsonl.state"
    while not (state.exists() and json.loads(state.read_text())["batches"] > 3) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out.jsonl").exists()
    assert state.exists()
    for name in ("out", "other"):
        assert subprocess.run([*command, str(tmp_path / f"{name}.jsonl")], check=False).returncode == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "other.jsonl").read_bytes()
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 80000


def test_command(tmp_path, capsys):
    out = str(tmp_path / "out.jsonl")
    write_records(tmp_path / "a.jsonl", 10)
    (tmp_path / "mix.yaml").write_text("seed: 3\nsources: {a: {files: a.jsonl, weight: 0.5}}")
    assert cli.main(["data", "mix", str(tmp_path / "mix.yaml"), "--out", out]) == 0
    assert "a: 5 taken of 10 usable records" in capsys.readouterr().out
    assert cli.main(["data", "mix", "--presets"]) == 0
    assert "vcr_chat_multiturn" in capsys.readouterr().out
    for words, message in (
        ([], "give MIX.yaml --out FILE"),
        (["mix.yaml", "--preset", "pvit-stage1", "--out", out], "give MIX.yaml --out FILE"),
        (
            [str(tmp_path / "mix.yaml"), "--out", out, "--source", "a=b"],
            "--source, --images and --without go with --preset",
        ),
        (["--preset", "pvit", "--out", out], "unknown preset 'pvit'; known: pvit-stage1, pvit-stage2"),
        (
            ["--preset", "pvit-stage1", "--out", out, "--source", "coco=b"],
            "pvit-stage1 has no source 'coco'; it has coco_",
        ),
        (["--preset", "pvit-stage1", "--out", out, "--source", "coco"], "--source takes NAME=FILE, got 'coco'"),
        (
            ["--preset", "pvit-stage1", "--out", out, "--source", "sbu_grounding=b", "--without", "sbu_grounding"],
            "drop one",
        ),
        (
            ["--preset", "pvit-stage1", "--out", out, "--images", "sbu_grounding=b", "--without", "sbu_grounding"],
            "source 'sbu_grounding' is given by --images and left out by --without; drop one",
        ),
    ):
        assert cli.main(["data", "mix", *words]) == 2
        assert message in capsys.readouterr().err

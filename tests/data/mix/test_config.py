"""The YAML of a mixture: what it may hold, and what is said of everything else."""

from pathlib import Path

import pytest

from pvit_ext.data.mix.config import MixSource, read_mix


def _read(tmp_path, text):
    (tmp_path / "mix.yaml").write_text(text)
    return read_mix(tmp_path / "mix.yaml")


def test_all_keys(tmp_path):
    mix = _read(
        tmp_path,
        """
        seed: 7
        held_out: refs(unc).p
        sources:
          coco: {files: [a.jsonl, sub/b.json], weight: 0.5, tasks: [counting, grounding], images: coco/}
          vg: {files: vg.jsonl, count: 10}
          own: {files: own.jsonl, at_most: 3, tasks: relation}
          short: short.jsonl
          pair: [c.jsonl, d.jsonl]
        """,
    )
    assert (mix.seed, mix.held_out, mix.origin) == (7, (tmp_path / "refs(unc).p",), "mix.yaml")
    assert mix.sources == (
        MixSource(
            "coco", (tmp_path / "a.jsonl", tmp_path / "sub/b.json"), 0.5, None, None, ("counting", "grounding"), "coco"
        ),
        MixSource("vg", (tmp_path / "vg.jsonl",), count=10),
        MixSource("own", (tmp_path / "own.jsonl",), at_most=3, tasks=("relation",)),
        MixSource("short", (tmp_path / "short.jsonl",)),
        MixSource("pair", (tmp_path / "c.jsonl", tmp_path / "d.jsonl")),
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (MixSource("a", (), 0.5), 5), (MixSource("a", (), 2.5), 25), (MixSource("a", (), 0.001), 1),
        (MixSource("a", (), count=25), 25), (MixSource("a", (), at_most=25), 10), (MixSource("a", (), at_most=4), 4),
    ],
)  # fmt: skip
def test_amounts(source, expected):
    assert source.amount(10) == expected


VALUES = ("0", "-1", ".nan", ".inf", "true", "null", "'2'", "[1]", "{a: 1}", "2024-01-01", "1e3", "''")


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("key", ["weight", "count", "at_most"])
def test_an_amount_that_is_none(tmp_path, key, value):
    with pytest.raises(ValueError, match=rf"mix\.yaml: source 'a': {key} is .*, got "):
        _read(tmp_path, f"sources: {{a: {{files: a.jsonl, {key}: {value}}}}}")


@pytest.mark.parametrize("value", ["1.5", "1.0", "0x"])
def test_a_count_that_is_no_whole_number(tmp_path, value):
    with pytest.raises(ValueError, match="count is a whole number of records, 1 or more"):
        _read(tmp_path, f"sources: {{a: {{files: a.jsonl, count: {value}}}}}")


@pytest.mark.parametrize("value", ["0", "true", "null", "[]", "[1]", "{a: 1}", "''", "[a, '']", "[[a]]", "2024-01-01"])
@pytest.mark.parametrize("key", ["files", "tasks"])
def test_names_that_are_none(tmp_path, key, value):
    fields = {"files": "a.jsonl"} | {key: value}
    inside = ", ".join(f"{name}: {one}" for name, one in fields.items())
    with pytest.raises(ValueError, match=rf"source 'a': {key} is a text or a list of texts, got "):
        _read(tmp_path, f"sources: {{a: {{{inside}}}}}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is a mapping with the keys sources, seed, held_out, got nothing"),
        ("- a", r"the file is a mapping .*, got \['a'\]"),
        ("seed: 1", "sources is a mapping of names to sources, one or more, got nothing"),
        ("sources: {}", "sources is a mapping"),
        ("sources: [a.jsonl]", "sources is a mapping"),
        ("sources: {a: a.jsonl}\nweights: 1", "the file has the key 'weights'; known are sources, seed, held_out"),
        ("sources: {a: a.jsonl}\nseed: '1'", "seed is a whole number, got '1'"),
        ("sources: {a: a.jsonl}\nseed: true", "seed is a whole number, got True"),
        ("sources: {a: a.jsonl}\nheld_out: 3", "held_out is a text or a list of texts, got 3"),
        ("sources: {1: a.jsonl}", "a source's name is letters, .*, got 1"),
        ("sources: {yes: a.jsonl}", "a source's name is letters, .*, got True"),
        ("sources: {'a:b': a.jsonl}", "a source's name is letters, .*, got 'a:b'"),
        ("sources: {a: 3}", r"source 'a' is a mapping with the keys files, .*, got 3"),
        ("sources: {a: }", "source 'a' is a mapping with the keys files, .*, got nothing"),
        ("sources: {a: {weight: 2}}", "source 'a' has no files; write files: FILE"),
        ("sources: {a: {files: a, wieght: 2}}", "source 'a' has the key 'wieght'; known are files, tasks"),
        ("sources: {a: {files: a, weight: 2, count: 3}}", "source 'a' has weight and count; give one of weight, count"),
        ("sources: {a: {files: [a, a]}}", "source 'a' names a file twice; to take its records twice, write weight: 2"),
        ("sources: {a: {files: a, images: ../b}}", "images is a folder in the image folder of training, got '../b'"),
        ("sources: {a: {files: a, images: /b}}", "images is a folder in"),
        ("sources: {a: {files: a, images: 7}}", "images is a folder in"),
        ("sources: {a: a.jsonl, a: b.jsonl}", "line 1: the key 'a' is given twice"),
        ("sources: {a: {files: a, files: b}}", "the key 'files' is given twice"),
        ("sources: {a: [", "is no YAML"),
        ("sources: {a: !!python/object:os.system x}", "is no YAML"),
        ("sources: {[a]: b}", "is no YAML"),
    ],
)
def test_what_a_user_gets_wrong(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"mix\.yaml.*{message}"):
        _read(tmp_path, text)


def test_no_file():
    with pytest.raises(OSError, match=r"none\.yaml"):
        read_mix(Path("none.yaml"))

"""Atomic files: whole or absent, whatever happens in between."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pvit_ext.files import atomic_write, read_json, read_lines, read_text, read_yaml, sha256_file


def test_new_file_in_a_new_folder(tmp_path):
    target = tmp_path / "a" / "b" / "x.json"
    with atomic_write(target) as temporary:
        assert (temporary.parent, temporary.suffix) == (target.parent, ".json")
        temporary.write_text("new")
        assert not target.exists()
    assert os.listdir(target.parent) == ["x.json"]
    assert target.read_text() == "new"


def test_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "x.bin"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        _interrupted(target)
    assert os.listdir(tmp_path) == ["x.bin"]
    assert target.read_text() == "old"


def _interrupted(target):
    with atomic_write(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_killed_process_leaves_the_old_file(tmp_path):
    target = tmp_path / "x.bin"
    target.write_text("old")
    code = (
        "import os, sys\nfrom pvit_ext.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as path:\n    path.write_text('half')\n    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode == 9
    assert target.read_text() == "old"


def test_content_is_synced_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    target = tmp_path / "x.bin"
    events = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(handle):
        events.append("folder" if os.path.samestat(os.fstat(handle), tmp_path.stat()) else "file")
        fsync(handle)

    def spy_replace(self, other):
        events.append("rename")
        return replace(self, other)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    with atomic_write(target) as temporary:
        temporary.write_text("new")
    assert events == ["file", "rename", "folder"]


def test_mode_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "x.bin"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "x.bin").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("size", [0, 3, (1 << 20) + 1])
def test_sha256(tmp_path, size):
    path = tmp_path / "x"
    path.write_bytes(b"abc" * size)
    assert sha256_file(path) == hashlib.sha256(b"abc" * size).hexdigest()


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_text_of_a_user_in_any_unicode(tmp_path, encoding):
    path = tmp_path / "names.txt"
    path.write_bytes("red\r\n\n naïve \rblue".encode(encoding))
    assert read_text(path) == "red\n\n naïve \nblue"
    assert read_lines(path) == ["red", "naïve", "blue"]
    path.write_bytes('{"a": "ü"}'.encode(encoding))
    assert read_json(path) == read_yaml(path) == {"a": "ü"}


@pytest.mark.parametrize(
    ("raw", "said"),
    [("ü".encode("latin-1"), "is not UTF-8 text: invalid start byte at byte 0; save it as UTF-8"),
     (b"\xff\xfea", "is not UTF-16-LE text: truncated data at byte 2")],
)  # fmt: skip
def test_a_text_in_another_encoding_names_its_file(tmp_path, raw, said):
    (tmp_path / "names.txt").write_bytes(raw)
    for reader in (read_text, read_lines, read_yaml, read_json):
        with pytest.raises(ValueError, match=rf"names\.txt.*{said}"):
            reader(tmp_path / "names.txt")


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: 1\nb: {c: 1, c: 2}\n", r"a\.yaml line 2: the key 'c' is given twice; keep one"),
     ("a: 1\nd: 2\na: 3\n", r"a\.yaml line 3: the key 'a' is given twice"),
     ("a: [", r"a\.yaml is no YAML"), ("a: !!python/object:os.system x", r"a\.yaml is no YAML"),
     ("[" * 9999, r"a\.yaml is no YAML")],
)  # fmt: skip
def test_a_yaml_file_that_is_refused(tmp_path, text, said):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_yaml(tmp_path / "a.yaml")

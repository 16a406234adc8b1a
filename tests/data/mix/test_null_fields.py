"""Records whose id or image is null, as some tools write them."""

from pvit_ext.data.mix.config import MixSource
from tests.data.mix.samples import write_records
from tests.data.mix.test_mix import _mixed as mixed


def test_records_without_an_id_or_an_image(tmp_path):
    file = write_records(tmp_path / "a.jsonl", 2, id=None)
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "This."}]
    text = write_records(tmp_path / "b.jsonl", 1, id="7", image=None, regions=None, conversations=turns)
    held_out = write_records(tmp_path / "held.jsonl", 1, image="b.jpg")
    records, report = mixed(tmp_path, MixSource("a", (file,)), MixSource("b", (text,)), held_out=(held_out,))
    assert [one["id"] for one in records] == ["a:a.jsonl-1", "b:7", "a:a.jsonl-2"]
    assert not any("have an id that" in line for line in report.remarks)

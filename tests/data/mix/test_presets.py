"""The papers' mixtures, by ``--preset``."""

import json

from pvit_ext import cli
from pvit_ext.data.check import validate
from pvit_ext.data.mix.presets import PRESETS, mix_of_preset
from pvit_ext.data.mix.run import mix_files
from pvit_ext.data.records import load_records
from tests.data.convert.truth import FIXTURES
from tests.data.mix.samples import write_records


def test_presets_are_the_papers():
    assert sum(part.records or 0 for part in PRESETS["pvit-stage2"].parts) == 243_446
    files = {part.name: [f"{part.name}.json"] for part in PRESETS["pvit-stage1"].parts}
    mix = mix_of_preset("pvit-stage1", files, {"sbu_grounding": "sbu"})
    assert [one.at_most for one in mix.sources] == [None, None, 2_125_465, 3_676_467]
    assert [one.images for one in mix.sources] == ["", "", "sbu", ""]


def test_preset_on_the_released_files(tmp_path, capsys):
    words = ["data", "mix", "--preset", "pvit-stage2", "--out", str(tmp_path / "out.jsonl")]
    assert cli.main(words) == 2
    message = capsys.readouterr().err
    assert "pvit-stage2 lacks 9 of its sources; give --source NAME=FILE for each:" in message
    assert (
        "ocr (single questions about text in the image): ocr.json of huggingface.co/datasets/PVIT/pvit_data_stage2, or"
        in message
    )
    names = [part.name for part in PRESETS["pvit-stage2"].parts]
    path = write_records(tmp_path / "multi_objects.json", 3)
    words += ["--source", f"multi_objects={path}", "--images", "multi_objects=coco"]
    words += [word for name in names if name != "multi_objects" for word in ("--without", name)]
    assert cli.main(words) == 0
    assert "multi_objects: it has fewer than the 4,364" in capsys.readouterr().out
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert (first["id"], first["image"]) == ("multi_objects:multi_objects/0", "coco/a.jpg")


def test_released_files_are_sources_as_they_are(tmp_path):
    names = ("multi_objects", "gqa_train_sampled_chat_multiturn", "vg_v1_0625_66k_filtered")
    files = {name: [FIXTURES / f"pvit/stage2/{name}.json"] for name in names}
    folders = {"multi_objects": "coco2017_train_images", names[1]: "gqa_images", names[2]: "visual_genome_images"}
    without = [part.name for part in PRESETS["pvit-stage2"].parts if part.name not in names]
    report = mix_files(mix_of_preset("pvit-stage2", files, folders, without), tmp_path / "out.jsonl")
    assert report.counts["records"] == 4
    assert validate(tmp_path / "out.jsonl", FIXTURES / "pvit/data", check_images=True) == []
    assert load_records(tmp_path / "out.jsonl").summary.regions > 4

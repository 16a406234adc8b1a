"""Which format a source is of, and what is said when another was asked for."""

import json

import pytest

from pvit_ext import cli
from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.detect import describe, detect, resolve
from pvit_ext.data.convert.formats.visual_genome import PARTS
from tests.data.convert.truth import FIXTURES, converted

SOURCES = {
    "coco": ["coco/annotations/instances_val2017.json", "coco/annotations/captions_val2017.json"],
    "voc": ["voc/VOCdevkit/VOC2012", "voc/VOCdevkit/VOC2012/Annotations/2012_000101.xml", "bccd"],
    "lvis": ["lvis/lvis_v1_val.json"],
    "paco": ["paco/paco_lvis_v1_val.json"],
    "labelme": ["labelme", "labelme/scene3.json"],
    "label_studio": ["label_studio/project-1-at-2024-01-01.json", "label_studio/project-1-min.json"],
    "cvat": ["cvat/images", "cvat/images/annotations.xml", "cvat/video/annotations.xml"],
    "visual_genome": ["visual_genome", *(f"visual_genome/{name}.json" for name in PARTS.values())],
    "refcoco": ["refcoco/refcoco", "refcoco/refcocog", "refcoco/refcoco/refs(unc).p"],
    "mdetr": ["refcoco/mdetr_annotations/finetune_refcoco_val.json"],
    "refcoco_jsonl": ["refcoco/qwen_vl/refcoco_val.jsonl"],
    "refcoco_parquet": ["refcoco/jxu124", "refcoco/lmms_lab/val-00000-of-00001.parquet"],
    "flickr30k": ["flickr30k_entities"],
    "ms_swift": ["ms_swift/grounding.jsonl"],
    "qwen_json": ["qwen/qwen2_5_vl.json", "qwen/qwen3_vl.json"],
    "qwen_vl": ["qwen/qwen_vl.json"],
    "ferret": ["ferret/git_instruction.json"],
    "osprey": [f"osprey/osprey_{name}.json" for name in ("conversation", "detail_description", "part_level")],
    "shikra": [f"shikra/{n}_train.jsonl" for n in ("REC_ref3", "CWB_flickr30k", "GPT4GEN_BoxCoT", "pointQA_local")],
    "pixelrefer": ["pixelrefer/image.json", "pixelrefer/vg_val_5000.json"],
    "gar": ["gar_dataset/relation.json"],
    "gar_arrow": ["gar_dataset/Fine-Grained-Dataset"],
    "pvit": ["pvit/stage1", "pvit/stage2/multi_objects.json"],
    "gqa": ["gqa", "gqa/val_balanced_questions.json"],
    "vcr": ["vcr/val.jsonl"],
    "gpt4roi": ["gpt4roi/VG/train.json", "gpt4roi/VG/test_caption.json"],
    "kosmos_grit": ["kosmos_grit"],
    "glamm": ["glamm/GranDf_HA_GCG_train.json", "glamm/RefCOCOg_GCG_train.json"],
    "glamm_flickr": ["glamm/flickr_mergedGT_GCG_train.json"],
    "yolo": ["yolo", "yolo/data.yaml", "yolo_seg/data.yaml", "aquarium"],
}
PAIRS = [(name, source) for name, sources in SOURCES.items() for source in sources]


@pytest.mark.parametrize(("name", "source"), PAIRS)
def test_sources_are_recognised(name, source):
    assert resolve("auto", FIXTURES / source) == name
    assert resolve(name, FIXTURES / source) == name


@pytest.mark.parametrize(("name", "source"), PAIRS)
def test_the_right_format_is_named_when_another_is_asked_for(name, source, tmp_path):
    names = [*SOURCES, *SOURCES]
    for other in {"coco", "yolo", names[names.index(name) + 1], names[names.index(name) + 2]}:
        if other != name:
            with pytest.raises(SourceError, match=f"is not {other}: it looks like {name}, it has .*convert {name} "):
                converted(tmp_path, other, source, ".")


@pytest.mark.parametrize(
    "content", [b"", b"\0\1\2", b"[1, 2]", b'{"a": 1}', b"{", b"<a/>", b"\xff\xfe{", b"[[[[", b"a,b\n"]
)
def test_what_is_no_format_is_none(tmp_path, content):
    (tmp_path / "file.json").write_bytes(content)
    assert detect(tmp_path / "file.json") == []
    assert "is of no format that is known here" in describe(tmp_path / "file.json", [])
    with pytest.raises(SourceError, match="is of no format that is known here: coco, "):
        resolve("auto", tmp_path / "file.json")


def test_sources_that_are_not_there_and_names_that_are_none(tmp_path):
    with pytest.raises(SourceError, match="there is no such file or folder"):
        detect(tmp_path / "nothing")
    with pytest.raises(ValueError, match="unknown data format 'cocoa'; known: coco, "):
        resolve("cocoa", tmp_path)
    (tmp_path / "folder").mkdir()
    assert detect(tmp_path / "folder") == []


def test_a_folder_of_no_format_names_its_files_that_are_of_one(tmp_path, capsys):
    assert cli.main(["data", "convert", "--detect", str(FIXTURES / "coco")]) == 1
    said = capsys.readouterr().out
    assert (
        "give one of them: annotations/captions_val2017.json (coco), annotations/instances_awkward.json (coco)" in said
    )
    with pytest.raises(SourceError, match=r"give one of them: images/annotations\.xml \(cvat\)"):
        resolve("auto", FIXTURES / "cvat")
    assert cli.main(["data", "convert", "--detect", str(FIXTURES / "coco/annotations/instances_val2017.json")]) == 0


def test_one_arrow_file():
    pytest.importorskip("pyarrow")
    (path,) = (FIXTURES / "gar_dataset").rglob("*.arrow")
    assert detect(path)[0].name == "gar_arrow"


@pytest.mark.parametrize("lines", [True, False])
def test_a_training_file_is_no_annotations(tmp_path, lines):
    turns = [{"from": "human", "value": "<image>\nWhat is <region>?"}, {"from": "gpt", "value": "A dog."}]
    record = json.dumps({"id": "1", "image": "a.jpg", "regions": [[1, 2, 3, 4]], "conversations": turns})
    (tmp_path / "train.json").write_text(record if lines else f"[{record}]")
    with pytest.raises(SourceError, match="has conversations, as a training file: `pvit-ext data check`"):
        resolve("auto", tmp_path / "train.json")

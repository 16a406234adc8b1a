"""Every format's reader is sent to the workers: a copy of it reads the same."""

import pickle

import pytest

from pvit_ext.data.convert.base import FORMATS, ReadOptions
from pvit_ext.data.convert.image_folder import ImageFolder
from pvit_ext.data.convert.notes import Notes
from tests.data.convert.truth import FIXTURES, converted

SOURCES = {
    "coco": ("coco/annotations/instances_val2017.json", "coco", {}),
    "voc": ("voc/VOCdevkit/VOC2012", "voc", {"masks": "yes"}),
    "yolo": ("yolo", "yolo", {}),
    "lvis": ("lvis/lvis_v1_val.json", "lvis", {}),
    "paco": ("paco/paco_lvis_v1_val.json", "lvis", {}),
    "labelme": ("labelme", "labelme", {}),
    "label_studio": ("label_studio/project-1-min.json", "label_studio", {}),
    "cvat": ("cvat/images", "cvat/images", {}),
    "visual_genome": ("visual_genome", "visual_genome", {}),
    "refcoco": ("refcoco/refcoco", "refcoco/images", {}),
    "mdetr": ("refcoco/mdetr_annotations/finetune_refcoco_val.json", "refcoco/images", {}),
    "refcoco_jsonl": ("refcoco/qwen_vl/refcoco_val.jsonl", "refcoco/images", {}),
    "refcoco_parquet": ("refcoco/jxu124", "refcoco/images", {"split": "val"}),
    "flickr30k": ("flickr30k_entities", "flickr30k_entities", {}),
    "ferret": ("ferret/git_instruction.json", "coco", {}),
    "gar": ("gar_dataset/relation.json", "gar_dataset", {}),
    "gar_arrow": ("gar_dataset/Fine-Grained-Dataset", "gar_dataset", {}),
    "glamm": ("glamm/GranDf_HA_GCG_train.json", "coco", {}),
    "glamm_flickr": ("glamm/flickr_mergedGT_GCG_train.json", "flickr30k_entities", {}),
    "gpt4roi": ("gpt4roi/VG/train.json", "visual_genome", {}),
    "gqa": ("gqa", "gqa", {}),
    "kosmos_grit": ("kosmos_grit", "coco", {}),
    "ms_swift": ("ms_swift/grounding.jsonl", "ms_swift", {}),
    "osprey": ("osprey/osprey_conversation.json", "coco", {}),
    "pixelrefer": ("pixelrefer/image.json", "coco", {}),
    "pvit": ("pvit/stage2", "pvit", {}),
    "qwen_json": ("qwen/qwen3_vl.json", "qwen", {"numbers": "thousandths"}),
    "qwen_vl": ("qwen/qwen_vl.json", "qwen", {}),
    "shikra": ("shikra/REC_ref3_train.jsonl", "refcoco/images", {}),
    "vcr": ("vcr/val.jsonl", "vcr/vcr1images", {}),
}
REFUSED = {"describe_anything"}


def test_every_format_is_here():
    assert set(FORMATS.names()) == {*SOURCES, *REFUSED}


@pytest.mark.parametrize("name", SOURCES)
def test_a_copy_of_a_reader_reads_the_same(name):
    if name in ("gar_arrow", "kosmos_grit", "refcoco_parquet"):
        pytest.importorskip("pyarrow")
    source, folder, settings = SOURCES[name]
    reader = FORMATS.require(name)(FIXTURES / source, ReadOptions(ImageFolder(FIXTURES / folder), settings))
    units = list(reader.units())
    copy = pickle.loads(pickle.dumps(reader))
    notes, others = Notes(), Notes()
    read = [list(reader.read(unit, notes)) for unit in units]
    assert [list(copy.read(unit, others)) for unit in pickle.loads(pickle.dumps(units))] == read
    assert others == notes
    assert list(reader.units()) == units  # an interrupted conversion lists them again
    assert reader.fingerprint() == copy.fingerprint()
    assert reader.total() in (None, len(units))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gqa", "vcr", "pvit", "osprey"])
def test_two_workers_write_the_same_bytes(tmp_path, name):
    source, folder, settings = SOURCES[name]
    written = []
    for workers in (1, 2):
        converted(tmp_path, name, source, folder, settings=settings, max_bad_records=1, workers=workers)
        written.append((tmp_path / "out.jsonl").read_bytes())
    assert written[0] == written[1]

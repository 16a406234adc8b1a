"""What holds for every task: choices, box jitter, and which tasks are asked."""

import pytest

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation
from pvit_ext.data.tasks import (
    attribute,
    counting,
    description,
    discrimination,
    grounding,
    identification,
    relation,
    small_objects,
)
from pvit_ext.data.tasks.base import TASKS, fill, listed
from pvit_ext.data.tasks.options import TaskOptions
from pvit_ext.data.tasks.records import records_of
from pvit_ext.data.tasks.selection import select_tasks
from tests.data.tasks.scene import CLASSES, DOG, SCENE, SIZE


@pytest.mark.parametrize("name", TASKS.names())
def test_choices_depend_on_seed_and_record_alone(name):
    def records(seed, item="7"):
        image = AnnotatedImage("a.jpg", SIZE, item, SCENE.objects, SCENE.captions, SCENE.relations)
        options = TaskOptions("mine", seed=seed, negatives=True, box_jitter=0.1)
        return list(records_of(image, TASKS.require(name)(), options, CLASSES, True))

    assert records(3) == records(3)
    texts = [str([one["conversations"] for one in records(seed)]) for seed in range(12)]
    assert len(set(texts)) > 3
    assert len({str([one["conversations"] for one in records(0, str(item))]) for item in range(12)}) > 3


def test_every_task_has_many_templates():
    for task in (attribute, counting, description, discrimination, grounding, identification, relation, small_objects):
        groups = [value for key, value in vars(task).items() if key.isupper() and isinstance(value, tuple)]
        assert max(map(len, groups)) >= 6
        for group in groups:
            assert len(set(group)) == len(group)


def test_box_jitter_moves_boxes_alone_and_a_little():
    polygon = Annotation({"polygon": [[5, 5, 99, 5, 99, 99]]}, (5, 5, 99, 99), "kite")
    image = AnnotatedImage("a.jpg", SIZE, "7", (DOG, polygon))
    (record,) = records_of(image, identification.Identification(), TaskOptions("mine", box_jitter=0.05))
    moved, kept = record["regions"]
    assert kept == polygon.region
    assert moved != DOG.region
    assert all(abs(one - other) <= 0.05 * 80 + 1e-3 for one, other in zip(moved, DOG.region, strict=True))
    assert record["source"]["objects"][0]["region"] == DOG.region
    with pytest.raises(ValueError, match=r"--box-jitter needs the image's size"):
        list(
            records_of(
                AnnotatedImage("a.jpg", None, "7", (DOG,)),
                identification.Identification(),
                TaskOptions("mine", box_jitter=0.1),
            )
        )


@pytest.mark.parametrize("value", [-0.1, 0.5, float("nan")])
def test_box_jitter_out_of_range(value):
    with pytest.raises(ValueError, match="from 0 to below"):
        TaskOptions("mine", box_jitter=value)


def test_selection():
    everything = [task.name for task in select_tasks(["all"]).tasks]
    assert everything == [name for name in TASKS.names() if name != "basic"]
    assert [task.name for task in select_tasks(["counting, relation", "counting"]).tasks] == ["counting", "relation"]
    for words, message in (
        (["count"], "unknown task 'count'; known: attribute, basic, counting"),
        (["counting,"], "takes NAME or NAME,NAME, got 'counting,'"),
        ([""], "takes NAME or NAME,NAME"),
        (["basic,counting"], "basic asks what other tasks ask too"),
    ):
        with pytest.raises(ValueError, match=message):
            select_tasks(words)


def test_fields_are_filled_once_whatever_they_hold():
    assert fill("Is {label} {fact}?", label="{fact}", fact="a {label}") == "Is {fact} a {label}?"
    assert [listed(count, "or") for count in (1, 2, 3)] == [
        "<region>",
        "<region> or <region>",
        "<region>, <region> or <region>",
    ]

"""Masks and outlines beside boxes: taken where they are the box's, and counted where not."""

import pytest

from pvit_ext.data.convert.annotation import Annotation
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.shaped import paired, shaped

BOX = Annotation([10, 10, 30, 30], (10, 10, 30, 30), label="dog", id="7")
NO_USE = "masks or outlines of no use, kept as boxes"
OUTSIDE = "masks or outlines that do not fit their box, kept as boxes"


@pytest.mark.parametrize(
    ("around", "count"),
    [
        ((10, 10, 30, 30), None),
        ((10.4, 9.7, 31, 29), None),
        ((20, 10, 30, 30), None),  # the half in sight
        ((10, 10, 20, 16), None),
        ((25, 10, 36, 30), None),
        ((27, 10, 47, 30), OUTSIDE),
        ((40, 40, 50, 50), OUTSIDE),
        ((0, 0, 60, 60), OUTSIDE),
        ((11, 11, 13, 13), OUTSIDE),  # a speck
        (None, None),
    ],
)
def test_a_shape_is_taken_where_it_is_the_box_s(around, count):
    notes, region = Notes(), {"polygon": [[1, 2, 3, 4, 5, 6]]}
    found = shaped(BOX, Annotation(region, around), notes)
    assert found == Annotation(BOX.region if count else region, BOX.box, label="dog", id="7")
    assert notes.counts == ({count: 1} if count else {})


def test_things_of_a_pixel_keep_their_masks():
    for box, mask in (((10.3, 5, 10.7, 20), (10, 5, 11, 20)), ((3, 3, 4, 4), (3.4, 3.4, 3.6, 3.6))):
        notes = Notes()
        assert shaped(Annotation(list(box), box), Annotation({"mask": {}}, mask), notes).region == {"mask": {}}
        assert not notes.counts


def test_a_shape_of_no_use_is_counted_and_a_missing_one_is_not():
    notes = Notes()
    assert shaped(BOX, Reason.OUTSIDE, notes) is shaped(BOX, None, notes) is BOX
    assert notes.counts == {NO_USE: 1}


def test_shapes_without_a_box_are_counted():
    notes = Notes()
    assert paired([1, 2], ["a"], ("boxes", "masks"), notes) == [(1, "a"), (2, None)]
    assert not notes.counts
    assert paired([1], ["a", "b", "c"], ("boxes", "masks"), notes) == [(1, "a")]
    assert notes.counts == {"masks or outlines without a box, left out": 2}
    with pytest.raises(BadItem, match="masks is a list, got 'ab'"):
        paired([1], "ab", ("boxes", "masks"), notes)

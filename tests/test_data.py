"""Promises of `scdnet.data` that no chapter needs to show."""

import numpy as np
import pytest
from scdnet.data.layouts import KINECT20, NTU25
from scdnet.data.skeleton import Skeleton, adjacency, adjacency_power
from scdnet.utils.files import InputError

SMALL = dict(
    name="mine", joints=("hip", "knee", "ankle"), bones=((1, 0), (2, 1)), pairs=(), center=0
)


def small(**changes):
    return Skeleton(**SMALL | changes)


@pytest.mark.parametrize("skeleton", [NTU25, KINECT20], ids=["NTU25", "KINECT20"])
@pytest.mark.parametrize("n", range(21))
def test_walks_are_counted_exactly(skeleton, n):
    P = adjacency(skeleton).numpy().astype(int).astype(object)  # Python's integers have no limit
    D = np.eye(len(P), dtype=int).astype(object)
    for _ in range(n):
        D = D.dot(P)
    assert (adjacency_power(skeleton, n).numpy().astype(object) == D).all()


def test_joints_and_bones_decide_whether_layouts_are_equal():
    same = small(name="yours", pairs=((1, 2),), center=1, limbs={"leg": (0, 1)}, vertical=(0, 1))
    assert same == small() and hash(same) == hash(small())
    assert small(joints=("hip", "ankle", "knee")) != small() != small(bones=((0, 1), (2, 1)))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(joints="abc"), "joints is 'abc'"),
        (dict(joints=()), "joints is '()'"),
        (dict(joints=("hip", "", "ankle")), "joints.1 is ''"),
        (dict(joints=[str(i) for i in range(1001)]), "at most 1000"),
        (dict(joints=("hip", "knee", "knee")), "'mine': joint 'knee' is given twice"),
        (
            dict(bones=((1, 0), (3, 1))),
            "'mine': bone 1 is 3, 1, expected different joints from 0 to 2",
        ),
        (dict(bones=((1, 0), (1, 1))), "bone 1 is 1, 1"),
        (dict(bones=((1, 0), (0, 1))), "bone (0, 1) is given twice"),
        (dict(bones=((1, 0), (1, 1.0))), "bones.1.1 is '1.0'"),
        (dict(bones=((1, 0), (1, "2"))), "bones.1.1 is '2'"),
        (dict(bones=((1, 0), (-1, 1))), "bones.1.0 is '-1'"),
        (dict(bones=((1, 0, 2),)), "bones.0"),
        (dict(pairs=((1, 2), (2, 0))), "joint of a pair 2 is given twice"),
        (dict(center=3), "center is 3"),
        (dict(center=True), "center is 'True'"),
        (dict(vertical=(0, 0)), "vertical is 0, 0"),
        (dict(limbs={"leg": (0, 1, 3)}), "limb 'leg' is 0, 1, 3"),
        (dict(limbs=[("leg", (0,)), ("leg", (1,))]), "limb 'leg' is given twice"),
        (dict(name=3), "name is '3'"),
    ],
)
def test_a_wrong_layout_is_refused_in_one_line(changes, message):
    with pytest.raises(InputError) as error:
        small(**changes)
    assert message in str(error.value)


def test_numbers_of_numpy_are_joints():
    bones = np.array(SMALL["bones"])
    assert small(bones=[tuple(bone) for bone in bones], center=bones[0, 1]) == small()

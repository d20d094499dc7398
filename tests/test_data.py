"""Promises of `scdnet.data` that no chapter needs to show."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from commands import scdnet

from scdnet.data.layouts import KINECT20, NTU25
from scdnet.data.mannequin.ntu_files import synthesize
from scdnet.data.mannequin.perform import MannequinConfig
from scdnet.data.mannequin.pku_files import synthesize_pku
from scdnet.data.skeleton import Skeleton, adjacency, adjacency_power
from scdnet.data.store import SkeletonStore, StoreWriter, public_dataset
from scdnet.data.summary import doubts
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


def own_store(path, clips, classes, **options):
    """A store of very short clips of three joints."""
    frames = np.ones((1, 3, 3))
    labels = np.arange(clips) % classes
    return SkeletonStore.from_arrays(path, [frames] * clips, labels, small(), **options)


@pytest.mark.parametrize("splits", [None, "nwucla"])
def test_a_store_of_the_size_of_a_public_set_is_not_that_set(splits, tmp_path):
    store = own_store(tmp_path / "mine", 1400, 10, splits=splits)
    assert store.dataset == "mine" and store.identity["dataset"] == "mine"


@pytest.mark.parametrize(
    "source, rule, clips, name",
    [
        ({"format": "ntu"}, "ntu60", 56578, "NTU-60"),
        ({"format": "ntu"}, "ntu120", 113945, "NTU-120"),
        ({"format": "pku"}, "pku2", 7000, "PKU-MMD II"),
        ({"format": "nwucla"}, "nwucla", 1484, "NW-UCLA"),
        ({"format": "nwucla"}, "nwucla", 700, None),  # a part of it
        ({"format": "ctrgcn", "sources": ["/data/NTU60_CS.npz"]}, None, 56578, "NTU-60"),
        ({"format": "ctrgcn", "sources": ["/data/mine.npz"]}, None, 56578, None),
        ({"format": "ctrgcn", "sources": 7}, None, 56578, None),
        ({"format": "folder"}, "nwucla", 1484, None),
        ({"format": "agcn"}, None, 56578, None),
        ({}, "ntu60", 56578, None),
    ],
)
def test_a_reader_that_knows_its_source_names_the_data_set(source, rule, clips, name):
    splits = {"rule": rule} if rule else {"lists": {}}
    assert public_dataset({"source": source, "splits": splits, "clips": clips}) == name


def test_a_recorded_name_goes_first(tmp_path):
    store = own_store(tmp_path / "mine", 4, 2)
    changed = json.loads((store.path / "meta.json").read_text()) | {"dataset": "ours"}
    (store.path / "meta.json").write_text(json.dumps(changed))
    assert SkeletonStore.open(store.path).dataset == "ours"


def test_labels_that_count_from_1_are_reported(tmp_path, caplog):
    clips = [np.ones((2, 3, 3))] * 27
    one = SkeletonStore.from_arrays(tmp_path / "one", clips, range(1, 28), small())
    assert "class 0 has no clip, the lowest label is 1" in caplog.text
    assert doubts(one)[0].startswith("class 0 has no clip")
    caplog.clear()
    SkeletonStore.from_arrays(tmp_path / "zero", clips, range(27), small())
    names = ["background", *map(str, range(1, 28))]  # who names the classes knows what is in them
    SkeletonStore.from_arrays(tmp_path / "named", clips, range(1, 28), small(), classes=names)
    assert caplog.text == ""


def test_a_folder_with_labels_from_1_is_reported(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "skeleton.json").write_text(json.dumps(SMALL))
    rows = [f"{i}.npy,{i}" for i in range(1, 28)]
    (mine / "clips.csv").write_text("\n".join(["file,label", *rows]))
    for i in range(1, 28):
        np.save(mine / f"{i}.npy", np.full((4, 3, 3), i, np.float32))
    done = scdnet("prepare", mine, "--out", tmp_path / "store", "--workers", "1")
    assert done.returncode == 0 and "class 0 has no clip" in done.stderr
    assert "class 0 has no clip" in scdnet("inspect", tmp_path / "store").stderr


def test_a_store_of_version_0_2_is_read(tmp_path):
    """Its header was written by hand, with other spaces."""
    store = own_store(tmp_path / "mine", 4, 2)
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {store.frames.shape}}}"
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.encode().ljust(117) + b"\n"
    file, digest = store.path / "frames.npy", store.digest
    content = file.read_bytes()
    assert len(header) == 128 and content[128:] == store.frames.tobytes()
    file.write_bytes(header + content[128:])
    again = SkeletonStore.open(store.path, check_digest=True)
    assert again.digest == digest and isinstance(again.frames, np.memmap)


def test_frames_that_do_not_fit_are_refused(tmp_path):
    file = own_store(tmp_path / "mine", 4, 2).path / "frames.npy"
    good = np.load(file)
    for bad in (
        good[:3],
        good[..., :2],
        good.astype(np.float64),
        np.asfortranarray(np.ones((4, 1, 3, 3), "<f4")),
    ):
        np.save(file, bad)
        with pytest.raises(InputError, match=r"frames\.npy"):
            SkeletonStore.open(tmp_path / "mine")
    np.save(file, good)
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(InputError, match=r"frames\.npy: .* bytes, expected"):
        SkeletonStore.open(tmp_path / "mine")


def test_a_trajectory_that_does_not_fit_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    writer, rng = StoreWriter(tmp_path / "mine", KINECT20, persons=1), np.random.default_rng(0)
    for name in "abc":  # the second clip comes without one
        path = None if name == "b" else rng.normal(size=(4, 3))
        writer.append(name, rng.normal(size=(4, 1, 20, 3)), 0, trajectory=path)
    writer.finish(["walk"], None, {}, {"source": {}, "preparation": {}})
    store, file = SkeletonStore.open(tmp_path / "mine"), tmp_path / "mine" / "trajectory.npy"
    assert not store.trajectory[4:8].any() and store.trajectory[[0, 8]].all()
    good = np.load(file)
    for bad, checked in ((good[:3], False), (good.astype(np.float64), False), (good + 1, True)):
        np.save(file, bad)
        with pytest.raises(InputError, match=r"trajectory\.npy"):
            SkeletonStore.open(tmp_path / "mine", check_digest=checked)
    file.unlink()
    with pytest.raises(InputError, match=r"trajectory\.npy"):
        SkeletonStore.open(tmp_path / "mine")


def test_summary_and_readers_import_no_drawing():
    code = "import sys, scdnet.data.summary, scdnet.data.prepare; print([m for m in ('torch', 'matplotlib', 'scdnet.viz') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        == "[]\n"
    )


@pytest.mark.parametrize("kind", ["ntu", "pku"])
def test_a_mannequin_writes_the_same_bytes_as_ever(kind, tmp_path):
    """The digest is that of the files of version 0.2, on x86-64."""
    if kind == "ntu":
        config = MannequinConfig(subjects=(1, 2, 3))
        out = synthesize(tmp_path / "raw", 0, config, workers=1, progress=False)
    else:
        out = synthesize_pku(tmp_path / "raw", 3, 2, 6, workers=1, progress=False)
    digest = hashlib.sha256()
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(out)).encode() + path.read_bytes())
    assert digest.hexdigest()[:16] == {"ntu": "14fb4ee89a67f654", "pku": "757da0e8b02fc641"}[kind]


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(actions=(2, 5)), "actions: no A002, expected some of A001, A003"),
        (dict(takes=7), "takes is '7'"),
        (dict(noise=-1), "noise is '-1'"),
        (dict(late="often"), "late is 'often'"),
        (dict(setups=0), "setups is '0'"),
    ],
)
def test_a_mannequin_that_cannot_be(wrong, message):
    with pytest.raises(InputError) as error:
        MannequinConfig(**wrong)
    assert message in str(error.value)

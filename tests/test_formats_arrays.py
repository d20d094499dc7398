"""Other people's arrays (PYSKL, CTR-GCN, AGCN): round trips, bad input, and pickles that mean harm."""

import contextlib
import csv
import gc
import io
import pickle
import pickletools
import resource
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from scdnet.app.cli.main import main
from scdnet.data import prepare
from scdnet.data.mannequin.ntu_files import synthesize
from scdnet.data.mannequin.perform import MannequinConfig
from scdnet.data.preprocess import preprocess
from scdnet.data.readers.arrays import unpad
from scdnet.data.readers.base import Entry
from scdnet.data.readers.npz import Array, archive_members
from scdnet.data.readers.pickles import load_pickle
from scdnet.data.store import SkeletonStore
from scdnet.utils.files import InputError


def run(source, out, *words):
    """`scdnet prepare`, in this process."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = main(["prepare", str(source), "--out", str(out), "--workers", "1", *words])
    return SimpleNamespace(returncode=code, stdout=stdout.getvalue(), stderr=stderr.getvalue())


def assert_mistake(done, *parts):
    assert done.returncode == 2, done.stderr
    assert (
        done.stdout == ""
        and done.stderr.startswith("scdnet: ")
        and len(done.stderr.splitlines()) == 1
    ), done.stderr
    assert len(done.stderr) < 1000
    for part in parts:
        assert str(part) in done.stderr, done.stderr


def skipped(store):
    with open(store.path / "skipped.csv", newline="") as file:
        return list(csv.DictReader(file))


# the same clips in each form


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Two actions of one person and one of two, by four people, prepared; one partner leaves early, one clip shows nobody for a while."""
    place = tmp_path_factory.mktemp("store")
    synthesize(
        place / "raw",
        config=MannequinConfig(actions=(5, 7, 58), subjects=(1, 2, 3, 6)),
        workers=1,
        progress=False,
    )
    store = prepare.prepare(place / "raw", place / "first", workers=1, progress=False)
    clips = [np.array(store[i]) for i in range(len(store))]
    pair = store.labels.tolist().index(57)
    clips[pair][-9:, 1] = 0
    clips[0][20:25] = 0
    columns = {key: store.clips[key] for key in ("subject", "camera", "setup", "replication")}
    return SkeletonStore.from_arrays(
        place / "store",
        clips,
        store.labels,
        store.skeleton,
        store.names,
        "ntu60",
        store.classes,
        columns,
    )


def write_pyskl(store, place):
    sides = {
        f"{split}_{side}": [store.names[i] for i in rows]
        for split in ("xsub", "xview")
        for side, rows in zip(("train", "val"), store.split(split), strict=True)
    }
    annotations = [
        {
            "frame_dir": name,
            "label": int(store.labels[i]),
            "total_frames": len(store[i]),
            "keypoint": np.array(store[i]).transpose(1, 0, 2, 3),
        }
        for i, name in enumerate(store.names)
    ]
    (place / "ntu60_3danno.pkl").write_bytes(
        pickle.dumps({"split": sides, "annotations": annotations})
    )


def ctrgcn_arrays(store, T=300):
    arrays = {}
    for side, rows in zip(("train", "test"), store.split("xsub"), strict=True):
        arrays[f"x_{side}"] = np.stack(
            [
                np.pad(store[i], ((0, T - len(store[i])), (0, 0), (0, 0), (0, 0))).reshape(T, 150)
                for i in rows
            ]
        )
        arrays[f"y_{side}"] = np.eye(60)[store.labels[rows]]
    return arrays


def write_ctrgcn(store, place, save=np.savez):
    save(place / "NTU60_CS.npz", **ctrgcn_arrays(store))


def in_loop(clip, T=300):
    padded = np.zeros((T, *clip.shape[1:]), np.float32)
    for m in range(clip.shape[1]):
        there = np.flatnonzero(clip[:, m].any(axis=(1, 2)))
        if len(there):
            padded[:, m] = clip[np.arange(T) % (there[-1] + 1), m]
    return padded


def write_agcn(store, place, split="xsub", lengths=False):
    (place / split).mkdir()
    for side, rows in zip(("train", "val"), store.split(split), strict=True):
        frames = np.stack([in_loop(store[i]) for i in rows]).transpose(0, 4, 1, 3, 2)
        np.save(place / split / f"{side}_data_joint.npy", np.ascontiguousarray(frames))
        np.save(place / split / f"{side}_data_bone.npy", np.zeros(3))
        labels = [store.names[i] + ".skeleton" for i in rows], store.labels[rows].tolist()
        (place / split / f"{side}_label.pkl").write_bytes(pickle.dumps(labels))
        if lengths:
            np.save(place / split / f"{side}_num_frame.npy", store.lengths[rows])


WRITERS = {"pyskl": write_pyskl, "ctrgcn": write_ctrgcn, "agcn": write_agcn}


def zipped(place, how):
    """A zip beside a folder, of all that is in it."""
    with zipfile.ZipFile(place.with_suffix(".zip"), "w", how, compresslevel=1) as archive:
        for file in sorted(place.rglob("*.*")):
            archive.write(file, f"deep/{file.relative_to(place).as_posix()}")
    return place.with_suffix(".zip")


def sides(store, split):
    return [{store.names[i] for i in side} for side in store.split(split)]


@pytest.mark.parametrize(
    "name, how",
    [(name, how) for name in WRITERS for how in ("folder", "stored", "deflated")]
    + [("ctrgcn", "compressed"), ("agcn", "lengths")],
)
def test_round_trip(name, how, store, tmp_path):
    """Equal frames, labels and splits. Exact, as the store has no empty frames at the end and no clip of 299 frames or more."""
    place = tmp_path / "data"
    place.mkdir()
    WRITERS[name](
        store,
        place,
        **{"compressed": {"save": np.savez_compressed}, "lengths": {"lengths": True}}.get(how, {}),
    )
    source = (
        zipped(place, getattr(zipfile, f"ZIP_{how.upper()}"))
        if how in ("stored", "deflated")
        else place
    )
    back = prepare.prepare(
        source, tmp_path / "back", workers=2, progress=False
    )  # auto knows the format
    assert back.meta["source"]["format"] == name and back.meta["source"]["found"] == len(
        store
    ) == len(back)
    assert back.meta["preparation"] == {
        "renormalise": False,
        "padding": "zeros and loops at the end removed",
    }
    train, test = ([store.names[i] for i in side] for side in store.split("xsub"))
    if name == "ctrgcn":
        called = {
            n: f"{side}-{i:06d}"
            for side, some in (("train", train), ("test", test))
            for i, n in enumerate(some)
        }
        assert back.splits == ["xsub"]
    else:
        called = {n: n for n in store.names}
        assert set(back.splits) == set(store.splits)
        for split in store.splits:
            assert sides(back, split) == sides(store, split)
        assert (
            back.clips.set_index("name").loc[store.names, "subject"].tolist()
            == store.clips["subject"].tolist()
        )
    assert sides(back, "xsub") == [{called[n] for n in side} for side in (train, test)]
    assert back.classes == store.classes
    for i, clip in enumerate(store.names):
        j = back.names.index(called[clip])
        assert back.labels[j] == store.labels[i]
        np.testing.assert_array_equal(back[j], store[i])


@pytest.mark.parametrize("name", WRITERS)
def test_renormalise(name, store, tmp_path):
    """On request, clips go through the official preparation as raw ones do."""
    place = tmp_path / "data"
    place.mkdir()
    WRITERS[name](store, place)
    assert run(place, tmp_path / "out", "--renormalise").returncode == 0
    back = SkeletonStore.open(tmp_path / "out")
    assert (
        back.meta["preparation"]["renormalise"] and back.meta["preparation"]["center"]["joint"] == 1
    )
    first = store.split("xsub")[0][0]
    np.testing.assert_array_equal(
        back[back.names.index("train-000000" if name == "ctrgcn" else store.names[first])],
        preprocess(np.array(store[first]), store.skeleton, store.persons),
    )


def test_agcn_in_published_order(store):
    """Padded in a loop first and centred on the first body afterwards, which hides the second body's loop."""
    clip = np.array(store[store.labels.tolist().index(57)]) + np.float32([0.3, 0.1, 3])
    clip[-9:, 1] = 0
    moved = np.linspace(0, 1, len(clip), dtype=np.float32)[:, None, None] * np.float32(
        [1, 0.2, 0.5]
    )
    clip[:, 0] += moved

    def centre(frames):
        return (frames - frames[:, :1, 1, None]) * frames.any(axis=-1, keepdims=True)

    back = unpad(centre(in_loop(clip)))
    np.testing.assert_array_equal(back, centre(clip))


# bad input: what is done to the fourth clip, or to the whole, and a word that the message must hold


def change(array, at, value):
    array = np.array(array)
    array[at] = value
    return array


PYSKL_CLIP = {  # the fourth annotation -> fields that change
    "nan": (
        lambda a: {"keypoint": change(a["keypoint"], (0, 7, 3), np.nan)},
        "annotation 3: frame 7",
    ),
    "joints": (lambda a: {"keypoint": a["keypoint"][:, :, :24]}, "annotation 3"),
    "bodies": (lambda a: {"keypoint": np.concatenate([a["keypoint"]] * 2)}, "--renormalise"),
    "flat": (lambda a: {"keypoint": a["keypoint"][0]}, "annotation 3"),
    "no array": (lambda a: {"keypoint": "points"}, "'points'"),
    "longer": (lambda a: {"total_frames": 9999}, "9999"),
    "shorter": (lambda a: {"total_frames": 3}, "total_frames"),
    "frames of no number": (lambda a: {"total_frames": np.zeros(3)}, "total_frames"),
    "twice": (None, "twice"),
    "name": (lambda a: {"frame_dir": ["a"]}, "annotation 3"),
    "label": (lambda a: {"label": -1}, "-1"),
    "label too high": (lambda a: {"label": 5000}, "5000"),
    "label of another class": (lambda a: {"label": 11}, "11"),
}
PYSKL = {  # the content -> another content
    "no annotations": (lambda c: c | {"annotations": []}, "no annotations"),
    "number": (lambda c: 7, "7"),
    "other keys": (lambda c: {"x": 1}, "'x'"),
    "nothing in annotations": (lambda c: c | {"annotations": [None] * 3}, "keypoint"),
    "split on both sides": (
        lambda c: c | {"split": {"a_train": ["x"], "a_val": ["x"]}},
        "both sides",
    ),
    "split of another name": (lambda c: c | {"split": {"xsub": []}}, "'xsub'"),
    "split of numbers": (lambda c: c | {"split": {"xsub_train": [1]}}, "xsub_train"),
    "list for split": (lambda c: c | {"split": [1]}, "'split'"),
    "array for split": (lambda c: c | {"split": np.zeros(3)}, "'split'"),
    "two dimensions": (
        lambda c: (
            c
            | {"annotations": [a | {"keypoint": a["keypoint"][..., :2]} for a in c["annotations"]]}
        ),
        "2-D",
    ),
    "coco": (
        lambda c: (
            c
            | {
                "annotations": [
                    a | {"keypoint": a["keypoint"][:, :, :17]} for a in c["annotations"]
                ]
            }
        ),
        "17 joints",
    ),
    "objects": (
        lambda c: (
            c | {"annotations": [a | {"keypoint": np.array([None])} for a in c["annotations"]]}
        ),
        "O8",
    ),
}
BYTES = {  # a file -> another file
    "truncated": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "text": lambda whole: b"0 0 0\r\n" * 99,
    "utf-16": lambda whole: "\ufeffannotations".encode("utf-16"),
}
CTRGCN_CLIP = {  # the arrays -> arrays that change
    "nan": (lambda a: {"x_train": change(a["x_train"], (3, 7, 3), np.nan)}, "row 3: frame 7"),
    "overflow": (
        lambda a: {"x_train": change(a["x_train"].astype(float), (3, 7, 3), 1e300)},
        "row 3: frame 7",
    ),
    "no label": (lambda a: {"y_train": change(a["y_train"], 3, 0)}, "row 3"),
    "two labels": (lambda a: {"y_train": change(a["y_train"], (3, slice(0, 2)), 1)}, "row 3"),
    "half a label": (lambda a: {"y_train": change(a["y_train"], 3, 0.5)}, "row 3"),
    "label": (
        lambda a: {
            "y_train": change(a["y_train"].argmax(1), 3, -1),
            "y_test": a["y_test"].argmax(1),
        },
        "row 3",
    ),
}
CTRGCN = {
    "joints": (lambda a: {"x_train": a["x_train"][:, :, :147]}, "147"),
    "bodies": (lambda a: {"x_train": a["x_train"][:, :, :75]}, "75"),
    "flat": (lambda a: {"x_train": a["x_train"].reshape(-1, 150)}, "labels"),
    "fewer labels": (lambda a: {"y_train": a["y_train"][1:]}, "labels"),
    "cube of labels": (lambda a: {"y_train": a["y_train"][:, None]}, "one-hot"),
    "objects": (lambda a: {"x_train": a["x_train"][:1].astype(object)}, "object"),
    "columns": (lambda a: {"x_train": np.asfortranarray(a["x_train"])}, "column order"),
    "no numbers": (lambda a: {"x_train": np.array(["a"])}, "<U1"),
    "no rows": (lambda a: {key: value[:0] for key, value in a.items()}, "no rows"),
    "an array missing": (lambda a: {"y_test": None}, "y_test"),
}
AGCN_CLIP = {  # names and labels -> others
    "twice": (lambda n, y: (change(n, 3, n[0]).tolist(), y), "row 3"),
    "name": (lambda n, y: ([*n[:3], None, *n[4:]], y), "row 3"),
    "label": (lambda n, y: (n, change(y, 3, -1)), "-1"),
    "label too high": (lambda n, y: (n, [*y[:3], 10**30, *y[4:]]), "row 3"),
    "label of another class": (lambda n, y: (n, change(y, 3, 11).tolist()), "row 3"),
    "letters": (lambda n, y: (n, [*y[:3], "4", *y[4:]]), "'4'"),
}
AGCN = {
    "fewer labels": (lambda n, y: (n, y[1:]), "labels"),
    "one list": (lambda n, y: n, "two lists"),
    "no lists": (lambda n, y: ("a" * len(n), "b" * len(n)), "list"),
    "dict": (lambda n, y: {"names": n}, "two lists"),
}
AGCN_FRAMES_CLIP = {  # the frames -> others
    "nan": (lambda x: change(x, (3, 0, 7), np.inf), "row 3: frame 7"),
}
AGCN_FRAMES = {
    "joints": (lambda x: x[:, :, :, :18], "18"),
    "flat": (lambda x: x[0], "shape"),
    "coordinates": (lambda x: x[:, :2], "shape"),
    "columns": (lambda x: np.asfortranarray(x), "column order"),
    "objects": (lambda x: np.array([None] * len(x)), "object"),
}
LENGTHS_CLIP = {
    "frames too many": (lambda n: change(n, 3, 301), "301"),
    "frames below zero": (lambda n: change(n, 3, -1), "-1"),
}
LENGTHS = {"fewer frame counts": (lambda n: n[1:], "num_frame")}


def damage(name, what, store, place):
    """Write a data set in which `what` is wrong; returns the word that the message must hold."""
    WRITERS[name](store, place, **({"lengths": True} if what in LENGTHS | LENGTHS_CLIP else {}))
    file = {
        "pyskl": place / "ntu60_3danno.pkl",
        "ctrgcn": place / "NTU60_CS.npz",
        "agcn": place / "xsub" / "train_data_joint.npy",
    }[name]
    labels, lengths = file.with_name("train_label.pkl"), file.with_name("train_num_frame.npy")
    if what in BYTES:
        file.write_bytes(BYTES[what](file.read_bytes()))
        return file.name
    how, word = CASES[name][what]
    if name == "pyskl":
        content = pickle.loads(file.read_bytes())
        if what in PYSKL:
            content = how(content)
        else:
            first, *_, fourth = content["annotations"][:4]
            fourth.update({"frame_dir": first["frame_dir"]} if what == "twice" else how(fourth))
        file.write_bytes(pickle.dumps(content))
    elif name == "ctrgcn":
        arrays = ctrgcn_arrays(store)
        np.savez(
            file,
            **{key: value for key, value in (arrays | how(arrays)).items() if value is not None},
        )
    elif what in AGCN | AGCN_CLIP:
        labels.write_bytes(pickle.dumps(how(*pickle.loads(labels.read_bytes()))))
    elif what in LENGTHS | LENGTHS_CLIP:
        np.save(lengths, how(np.load(lengths)))
    else:
        np.save(file, how(np.load(file)), allow_pickle=True)
    return word


CASES = {
    "pyskl": PYSKL | PYSKL_CLIP,
    "ctrgcn": CTRGCN | CTRGCN_CLIP,
    "agcn": AGCN | AGCN_CLIP | AGCN_FRAMES | AGCN_FRAMES_CLIP | LENGTHS | LENGTHS_CLIP,
}
ONE = [
    (name, what)
    for name, cases in {
        "pyskl": PYSKL_CLIP,
        "ctrgcn": CTRGCN_CLIP,
        "agcn": AGCN_CLIP | AGCN_FRAMES_CLIP | LENGTHS_CLIP,
    }.items()
    for what in cases
]
ALL = [(name, what) for name, cases in CASES.items() for what in [*cases, *BYTES]]
case = pytest.mark.parametrize


@case("name, what", ALL, ids=lambda v: v.replace(" ", "-"))
def test_refused_in_one_line(name, what, store, tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    part = damage(name, what, store, place)
    assert_mistake(run(place, tmp_path / "store"), place, part)
    assert not (tmp_path / "store").exists()


@case("name, what", ONE, ids=lambda v: v.replace(" ", "-"))
def test_skipped_and_listed(name, what, store, tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    part = damage(name, what, store, place)
    done = run(place, tmp_path / "store", "--on-error", "skip")
    assert done.returncode == 0, done.stderr
    back = SkeletonStore.open(tmp_path / "store")
    rows = skipped(back)
    assert (
        len(back) == len(store) - 1 == back.meta["source"]["found"] - 1
        and back.meta["source"]["skipped"] == len(rows) == 1
    )
    assert part in rows[0]["reason"] and f"{len(rows)}" in done.stdout


def test_files_that_are_missing_or_too_many(store, tmp_path):
    for name, write in WRITERS.items():
        (tmp_path / name).mkdir()
        write(store, tmp_path / name)
    (tmp_path / "pyskl" / "b.pkl").write_bytes(
        (tmp_path / "pyskl" / "ntu60_3danno.pkl").read_bytes()
    )
    assert_mistake(run(tmp_path / "pyskl", tmp_path / "store"), "b.pkl", "expected one")
    (tmp_path / "ctrgcn" / "NTU60_CV.npz").write_bytes(
        (tmp_path / "ctrgcn" / "NTU60_CS.npz").read_bytes()
    )
    assert_mistake(run(tmp_path / "ctrgcn", tmp_path / "store"), "NTU60_CV", "expected one")
    write_agcn(store, tmp_path / "agcn", "xview")
    assert_mistake(run(tmp_path / "agcn", tmp_path / "store"), "xsub", "xview", "expected one")
    (tmp_path / "agcn" / "xsub" / "train_label.pkl").unlink()
    assert_mistake(run(tmp_path / "agcn" / "xsub", tmp_path / "store"), "train_label.pkl")
    (tmp_path / "agcn" / "xview" / "val_label.pkl").write_bytes(
        (tmp_path / "agcn" / "xview" / "val_label.pkl").read_bytes()[:-20]
    )
    assert_mistake(run(tmp_path / "agcn" / "xview", tmp_path / "store"), "val_label.pkl")


@case("what", ["bomb", "climbs", "short array", "encrypted"])
def test_npz_that_mean_harm(what, store, tmp_path):
    """An `.npz` is a zip, too."""
    path = tmp_path / "NTU60_CS.npz"
    np.savez(path, **ctrgcn_arrays(store))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 300, 150)}\n"
    members |= {
        "bomb": {
            "x_train.npy": b"\x93NUMPY\x01\x00"
            + struct.pack("<H", len(header))
            + header
            + bytes(10**7)
        },
        "climbs": {"../../x.npy": b"x"},
        "short array": {"x_train.npy": members["x_train.npy"][:-4]},
    }.get(what, {})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    if what == "encrypted":
        path.write_bytes(encrypted(path.read_bytes()))
    part = {"climbs": "outside", "encrypted": "encrypted"}.get(what, "bytes, expected")
    assert_mistake(run(path, tmp_path / "store"), "NTU60_CS.npz", part)


def encrypted(content):
    """A zip whose members all say that they are."""
    content = bytearray(content)
    for magic, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(magic)
        while place >= 0:
            content[place + flag] |= 1
            place = content.find(magic, place + 1)
    return bytes(content)


@case("name", WRITERS)
def test_nobody_is_left_out_by_rule(name, store, tmp_path):
    """Not an error: counted, with the same reason for each."""
    place = tmp_path / "data"
    place.mkdir()
    WRITERS[name](store, place)
    if name == "pyskl":
        content = pickle.loads((place / "ntu60_3danno.pkl").read_bytes())
        content["annotations"][0]["keypoint"][:] = 0
        content["annotations"][1]["keypoint"] = content["annotations"][1]["keypoint"][:0]
        (place / "ntu60_3danno.pkl").write_bytes(pickle.dumps(content))
    elif name == "ctrgcn":
        arrays = ctrgcn_arrays(store)
        arrays["x_train"][:2] = 0
        np.savez(place / "NTU60_CS.npz", **arrays)
    else:
        np.lib.format.open_memmap(place / "xsub" / "train_data_joint.npy", mode="r+")[:2] = 0
    back = prepare.prepare(place, tmp_path / "store", workers=1, progress=False)
    assert len(back) == len(store) - 2 and back.meta["source"]["skipped"] == 0
    assert back.meta["source"]["left_out"] == {"nobody is seen in any frame": 2}


@case("name", WRITERS)
def test_hostile_zips(name, store, tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    WRITERS[name](store, place)
    whole = zipped(place, zipfile.ZIP_DEFLATED).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "climbs.zip").write_bytes(whole)
    with zipfile.ZipFile(tmp_path / "climbs.zip", "a") as archive:
        info = max(archive.infolist(), key=lambda i: i.compress_size)
        archive.writestr("../../evil.npy", b"")
    middle = info.header_offset + info.compress_size // 2
    (tmp_path / "damaged.zip").write_bytes(whole[:middle] + bytes(50) + whole[middle + 50 :])
    (tmp_path / "locked.zip").write_bytes(encrypted(whole))
    before = sorted(p.name for p in tmp_path.iterdir())
    for file, part in {
        "cut": "zip",
        "climbs": "outside",
        "damaged": "damaged.zip/deep",
        "locked": "encrypted",
    }.items():
        assert_mistake(run(tmp_path / f"{file}.zip", tmp_path / "store"), f"{file}.zip", part)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@case("name, file", [("pyskl", "a.pkl"), ("agcn", "xsub/train_label.pkl")])
def test_zip_bomb(name, file, store, tmp_path):
    """A pickle of 50 MB of zeros, packed into 50 kB."""
    with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(file, pickle.dumps(bytes(5 * 10**7)))
        buffer = io.BytesIO()
        np.save(buffer, np.zeros((1, 3, 2, 25, 2), np.float32))
        if name == "agcn":
            archive.writestr("xsub/train_data_joint.npy", buffer.getvalue())
    assert_mistake(run(tmp_path / "data.zip", tmp_path / "store"), file, "at most")


def test_formats_do_not_clash(store, tmp_path):
    """`auto` tells the three apart, and says so when a folder holds two."""
    for name, write in WRITERS.items():
        (tmp_path / name).mkdir()
        write(store, tmp_path / name)
        assert prepare.find_format(prepare.list_entries(tmp_path / name)).name == name
    assert_mistake(run(tmp_path, tmp_path / "store"), "pyskl", "ctrgcn", "agcn", "--format")
    for name in WRITERS:
        others = [n for n in WRITERS if n != name]
        assert_mistake(run(tmp_path / others[0], tmp_path / "store", "--format", name), "expected")


def test_one_side_is_enough(store, tmp_path):
    write_agcn(store, tmp_path)
    for file in (tmp_path / "xsub").glob("train*"):
        file.unlink()
    back = prepare.prepare(tmp_path, tmp_path / "store", workers=1, progress=False)
    assert len(back) == len(store.split("xsub")[1]) and "xsub" not in back.splits


def test_a_file_that_changes_is_read_anew(tmp_path):
    for value in (1, 2):
        np.save(tmp_path / "x.npy", np.full((3, 2), value))
        assert (Array(str(tmp_path / "x.npy")).rows(1, 3) == value).all()


def test_files_are_closed(tmp_path):
    """Few stay open, and what isn't kept is closed, with the archives that it lies in."""
    gc.collect()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        for i, save in enumerate([np.savez, np.savez_compressed] * 6):
            save(tmp_path / f"{i}.npz", x=np.eye(3))
            assert archive_members(Entry(str(tmp_path / f"{i}.npz"))) == ["x.npy"]
            assert (Array(str(tmp_path / f"{i}.npz"), ("x.npy",)).rows(0, 3) == np.eye(3)).all()
        gc.collect()
    assert not [warning for warning in told if str(tmp_path) in str(warning.message)]


MEMORY = """
import re, sys
from scdnet.data.prepare import prepare
store = prepare(sys.argv[1], sys.argv[2], workers=1, progress=False)
print(len(store), re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_memory_is_less_than_the_file(tmp_path):
    """540 MB of AGCN's arrays, most of them a hole in the file, by a process that must not hold them."""
    rows, row = 3000, np.zeros((3, 300, 25, 2), np.float32)
    row[:, :2] = 1
    with open(tmp_path / "train_data_joint.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (rows, *row.shape)}
        )
        start = file.tell()
        for i in range(0, rows, 10):
            file.seek(start + i * row.nbytes)
            file.write(row.tobytes())
        file.truncate(start + rows * row.nbytes)
    (tmp_path / "train_label.pkl").write_bytes(
        pickle.dumps(([f"clip{i}" for i in range(rows)], [i % 7 for i in range(rows)]))
    )
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path, tmp_path / "store"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    count, peak = map(int, done.stdout.split())
    assert count == rows / 10 and peak < 300_000, done.stdout  # kB


# pickles that mean harm

TOUCH = "open('pwned', 'w')"


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def text(module, name, *arguments):
    """A pickle in text: fetch and call."""
    return (
        f"c{module}\n{name}\n(".encode()
        + b"".join(pickle.dumps(a, 0)[:-1] for a in arguments)
        + b"tR."
    )


def array_state(
    shape, code, content, dtype_state=(3, "<", None, None, None, -1, -1, 0), twice=False
):
    """An array in the way of protocol 2, with any state."""

    def body(value):
        return pickle.dumps(value, 2)[2:-1]

    build = (
        b"(K\x01"
        + body(shape)
        + b"cnumpy\ndtype\n"
        + body((code, False, True))
        + b"R"
        + body(dtype_state)
        + b"b\x89"
        + content
        + b"tb"
    )
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + build * (2 if twice else 1)
        + b"."
    )


def raw(content):
    return pickle.dumps(content, 3)[2:-1]


HOSTILE = {
    "os.system": text("os", "system", "touch pwned"),
    "posix.system": text("posix", "system", "touch pwned"),
    "eval": text("builtins", "eval", TOUCH),
    "eval of python 2": text("__builtin__", "eval", TOUCH),
    "exec": pickle.dumps(Calls(exec, TOUCH)),
    "open": text("builtins", "open", "pwned", "w"),
    "io.open": text("io", "open", "pwned", "w"),
    "import": text("builtins", "__import__", "antigravity"),
    "getattr": text("builtins", "getattr", "a", "upper"),
    "subprocess": pickle.dumps(Calls(subprocess.Popen, ["touch", "pwned"])),
    "partial": text("functools", "partial", 1),
    "attrgetter": text("operator", "attrgetter", "x"),
    "codecs.decode": text("_codecs", "decode", "x", "rot13"),
    "codecs": text("_codecs", "encode", "x", "rot13"),
    "codecs zip": text("_codecs", "encode", "x", "zlib"),
    "codecs of a number": text("_codecs", "encode", 1, "latin1"),
    "lookup": text("_codecs", "lookup", "x"),
    "register": text("_codecs", "register", 1),
    "instance": b"(S'touch pwned'\nios\nsystem\n.",
    "instance of what is admitted": b"(inumpy\ndtype\n.",
    "object": b"(cos\nsystem\nS'touch pwned'\no.",
    "object of what is admitted": b"(cnumpy\ndtype\nS'f4'\no.",
    "new object": b"\x80\x02csubprocess\nPopen\n(lS'touch'\naS'pwned'\na\x85\x81.",
    "new object of what is admitted": b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85\x81.",
    "new object with words": b"\x80\x04csubprocess\nPopen\n)}\x92.",
    "extension 1": b"\x80\x02\x82\x01.",
    "extension 4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "dotted": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
    "dotted dtype": b"\x80\x04\x8c\x05numpy\x8c\x15dtype.__class__.__mro__\x93.",
    "dotted module": b"\x80\x04\x8c\x00\x8c\x0dnumpy.ndarray\x93.",
    "global names that are no text": b"\x80\x04K\x01K\x02\x93.",
    "numpy.load": text("numpy", "load", "x"),
    "numpy.fromfile": text("numpy", "fromfile", "x"),
    "numpy.memmap": text("numpy", "memmap", "pwned"),
    "runstring": text("numpy.testing", "runstring", TOUCH, {}),
    "random": text("numpy.random._pickle", "__randomstate_ctor", "MT19937"),
    "numpy.array": text("numpy", "array", 1),
    "numpy.zeros": text("numpy", "zeros", 10**12),
    "dtypes": text("numpy.dtypes", "ObjectDType"),
    "copyreg": text("copyreg", "_reconstructor", 1, 2, 3),
    "copy_reg of python 2": text("copy_reg", "_reconstructor", 1, 2, 3),
    "newobj": text("copyreg", "__newobj__", 1),
    "ndarray called": b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x85R.",
    "word changed": b"\x80\x02cnumpy\nndarray\n}U\x01xK\x01sb.",
    "function changed": b"\x80\x02cnumpy\ndtype\n}U\x0c__defaults__K\x01sb.",
    "function changed by its slots": b"\x80\x02c_codecs\nencode\nN}U\x08__code__K\x01s\x86b.",
    "function changed in its table": b"\x80\x02cnumpy\ndtype\nU\x01xK\x01s.",
    "function extended": b"\x80\x02cnumpy\ndtype\n(K\x01e.",
    "function filled": b"\x80\x04cnumpy\ndtype\n(K\x01\x90.",
    "persistent id": b"Pfile:///etc/passwd\n.",
    "binary persistent id": b"\x80\x02K\x01Q.",
    "buffer from outside": b"\x80\x05\x97.",
    "read-only buffer": b"\x80\x05\x96" + bytes(8) + b"\x98.",
    "objects in an array": pickle.dumps(np.array([Calls(exec, TOUCH)], dtype=object), 4),
    "plain objects in an array": pickle.dumps(np.array([None], dtype=object), 2),
    "objects in protocol 5": pickle.dumps(np.array([{}], dtype=object), 5),
    "named columns": pickle.dumps(np.zeros(2, [("a", "f4"), ("b", "O")])),
    "dates": pickle.dumps(np.zeros(2, "M8[s]")),
    "masked": pickle.dumps(np.ma.zeros(3)),
    "pointers": array_state((1,), "O8", raw(b"\x41" * 8), (3, "|", None, None, None, -1, -1, 0)),
    "void": array_state((1,), "V8", raw(b"\x41" * 8)),
    "type with columns": array_state(
        (1,), "f8", raw(b"\x41" * 8), (3, "<", None, ("a",), {"a": 1}, 8, 8, 0)
    ),
    "type of parts": array_state(
        (1,), "f8", raw(b"\x41" * 8), (3, "<", (1, 2), None, None, -1, -1, 0)
    ),
    "type without a state": array_state((1,), "f8", raw(b"\x41" * 8), 7),
    "type of many": array_state((1,), "8f8", raw(b"\x41" * 64)),
    "long type": array_state((1,), "U999999999", raw(b"")),
    "shape too large": array_state((10**15,), "f4", raw(b"abcd")),
    "shape below zero": array_state((-1,), "f4", raw(b"abcd")),
    "shape of huge numbers": array_state((10**5000,), "f4", raw(b"abcd")),
    "shape of texts": array_state(("1",), "f4", raw(b"abcd")),
    "shape too long": array_state((1,) * 99, "f4", raw(b"abcd")),
    "no bytes": array_state((1,), "f4", raw([1])),
    "built twice": array_state((1,), "f4", raw(b"abcd"), twice=True),
    "array in its own array": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87Rq\x00(K\x01K\x01\x85h\x00\x89h\x00tb.",
    "scalar of objects": text("numpy.core.multiarray", "scalar", 1, 2),
    "buffer of nothing": text("numpy.core.numeric", "_frombuffer", 1, 2, 3, 4),
    "memory of places": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "memory of places in text": b"Np2147483647\n.",
    "announced bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.",
    "announced array": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.",
    "announced text": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"abc.",
    "announced frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
    "bytes by number": text("builtins", "bytes", 10**12),
    "set of a number": text("builtins", "set", 10**12),
    "long number": b"L" + b"9" * 10**5 + b"L\n.",
    "encoded again and again": (
        b"\x80\x02c_codecs\nencode\nq\x00X"
        + struct.pack("<I", 10**5)
        + b"a" * 10**5
        + b"q\x01U\x06latin1q\x02]("
        + b"h\x00h\x01h\x02\x86R" * 10**4
        + b"e."
    ),
    "turned again and again": (
        b"\x80\x03B"
        + struct.pack("<I", 10**5)
        + bytes(10**5)
        + b"q\x01]("
        + array_state((25000,), ">f4", b"h\x01", (3, ">", None, None, None, -1, -1, 0))[2:-1] * 3000
        + b"e."
    ),
    "stack underflow": b"\x80\x02R.",
    "no stop": b"\x80\x02N",
    "nothing": b"\x80\x02.",
    "unknown instruction": b"\x80\x02\xff.",
    "protocol 255": b"\x80\xff.",
    "deep": b"(" * 10**5 + b".",
    "nested": b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
    "lists of lists of themselves": b"]q\x00h\x00a.",
    "text for a file": b"annotations:\n  - label: 1\n",
    "gzip": b"\x1f\x8b\x08\x00" + bytes(20),
}


@case("what", HOSTILE, ids=lambda v: v.replace(" ", "-"))
def test_hostile_pickle(what, tmp_path, monkeypatch):
    """Exit code 2, one line that names the file, nothing called, nothing left behind, no memory filled."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pkl").write_bytes(HOSTILE[what])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_mistake(run("a.pkl", "store"), "a.pkl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pkl"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


@case(
    "what",
    ["os.system", "exec", "function changed", "pointers", "memory of places"],
    ids=lambda v: v.replace(" ", "-"),
)
def test_hostile_labels(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("train_data_joint.npy", np.zeros((1, 3, 2, 25, 2), np.float32))
    (tmp_path / "train_label.pkl").write_bytes(HOSTILE[what])
    assert_mistake(run(".", "store"), "train_label.pkl")
    assert not (tmp_path / "pwned").exists()


def test_a_refused_global_is_named(tmp_path):
    for what, wanted in {
        "os.system": "os.system",
        "subprocess": "subprocess.Popen",
        "dotted": "numpy.ndarray.tofile",
        "runstring": "numpy.testing.runstring",
    }.items():
        (tmp_path / "a.pkl").write_bytes(HOSTILE[what])
        assert_mistake(
            run(tmp_path / "a.pkl", tmp_path / "store"), wanted, "expected only NumPy arrays"
        )


def test_pickles_cut_anywhere(store, tmp_path):
    """Every beginning of a good file is refused in one line; so is every file with one byte changed, or it is read."""
    content = {
        "split": {"a_train": ["x"]},
        "annotations": [
            {"frame_dir": "x", "label": np.int64(3), "keypoint": np.ones((1, 2, 1, 3), np.float16)}
        ],
    }
    entry = Entry(str(tmp_path / "a.pkl"))
    rng = np.random.default_rng(0)
    for protocol in (2, 4):
        whole = pickle.dumps(content, protocol)
        for length in range(len(whole)):
            Path(entry.path).write_bytes(whole[:length])
            with pytest.raises(InputError):
                load_pickle(entry)
        for place in range(len(whole)):
            Path(entry.path).write_bytes(
                whole[:place] + bytes([rng.integers(256)]) + whole[place + 1 :]
            )
            with contextlib.suppress(InputError):
                load_pickle(entry)


def test_the_tests_are_pickles():
    """Those that are meant to run would run: the reader is what stops them."""
    for what in (
        "os.system",
        "eval",
        "exec",
        "subprocess",
        "dotted",
        "codecs",
        "function changed",
        "objects in an array",
        "instance",
        "object",
    ):
        assert list(pickletools.genops(HOSTILE[what]))[-1][0].name == "STOP"

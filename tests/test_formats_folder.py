"""A folder of one's own clips through the command line: every mistake is one line that names file and row, and `--on-error skip` goes on."""

import contextlib
import io
import json
import shutil
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from scdnet.app.cli.main import main
from scdnet.data.skeleton import Skeleton
from scdnet.data.store import SkeletonStore

JOINTS = ["hip", "left knee", "right knee", "head"]
LAYOUT = {
    "name": "four",
    "joints": JOINTS,
    "bones": [["left knee", "hip"], ["right knee", "hip"], ["head", "hip"]],
    "pairs": [["left knee", "right knee"]],
    "center": "hip",
}
TABLE = "file,label,subject,mine\na.npy,sit,1,train\nb.npy,wave,2,test\ndeep/c.npy,sit,2,test\nd.npy,wave,1,train\n"


def clip(frames=5, persons=None, joints=4, coords=2, seed=0):
    shape = (frames, joints, coords) if persons is None else (frames, persons, joints, coords)
    return np.random.default_rng(seed).normal(size=shape)


def npy(array, **options):
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


@pytest.fixture
def mine(tmp_path):
    """Four clips of two classes; line n of the table is a, b, c, d for n = 2 to 5."""
    folder = tmp_path / "mine"
    (folder / "deep").mkdir(parents=True)
    (folder / "skeleton.json").write_text(json.dumps(LAYOUT))
    (folder / "clips.csv").write_text(TABLE)
    for i, name in enumerate(("a", "b", "deep/c", "d")):
        np.save(folder / f"{name}.npy", clip(5 + i, persons=2 if name == "b" else None, seed=i))
    return folder


def prepare(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["prepare", *map(str, words), "--workers", "1"])
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def assert_mistake(done, out, *parts):
    assert done.returncode == 2 and done.stdout == "", done.stderr
    assert done.stderr.startswith("scdnet: ") and len(done.stderr.splitlines()) == 1, done.stderr
    assert all(part in done.stderr for part in parts), done.stderr
    assert not out.exists()


def zip_of(folder, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder.parent))
    return path


# what works


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("format", ["auto", "folder"])
def test_prepare(packed, format, mine, tmp_path):
    source = zip_of(mine, tmp_path / "mine.zip") if packed else mine
    assert prepare(source, "--out", tmp_path / "store", "--format", format).returncode == 0
    store, clips = (
        SkeletonStore.open(tmp_path / "store", check_digest=True),
        [clip(5, seed=0), clip(6, 2, seed=1), clip(8, seed=3), clip(7, seed=2)],
    )
    assert (
        store.names == ["a", "b", "d", "deep/c"]
        and store.classes == ["sit", "wave"]
        and store.labels.tolist() == [0, 1, 1, 0]
    )
    assert store.skeleton == Skeleton("four", tuple(JOINTS), ((1, 0), (2, 0), (3, 0)), ((1, 2),), 0)
    assert [side.tolist() for side in store.split("mine")] == [[0, 2], [1, 3]] and store.clips[
        "subject"
    ].tolist() == [1, 2, 1, 2]
    assert store.frames.shape == (26, 2, 4, 2) and store.clips["persons"].tolist() == [1, 2, 1, 1]
    for found, given in zip(store, clips, strict=True):
        given = given if given.ndim == 4 else given[:, None]
        assert (found[:, : given.shape[1]] == given.astype(np.float32)).all() and not found[
            :, given.shape[1] :
        ].any()


def test_workers_do_not_matter(mine, tmp_path):
    (mine / "clips.csv").write_text(
        "file,label\n" + "".join(f"{i:02}.npy,{i % 3}\n" for i in range(40))
    )
    for i in range(40):
        np.save(mine / f"{i:02}.npy", clip(3 + i % 5, seed=i))
    assert (
        prepare(mine, "--out", tmp_path / "one").returncode
        == main(["prepare", str(mine), "--out", str(tmp_path / "two"), "--workers", "2"])
        == 0
    )
    assert (
        SkeletonStore.open(tmp_path / "one").digest == SkeletonStore.open(tmp_path / "two").digest
    )


@pytest.mark.parametrize(
    "table",
    [
        b"\xef\xbb\xbf" + TABLE.encode(),
        TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace(",", " , ").encode(),
        TABLE.replace("/", "\\").encode(),
        TABLE.encode() + b",,,\n\n",
        TABLE.replace(",1,", ",1.0,").encode(),
        b"\n".join(b",".join(reversed(line.split(b","))) for line in TABLE.encode().split()),
    ],
    ids=["BOM", "CRLF", "spaces", "backslash", "empty lines", "1.0", "order of columns"],
)
def test_table_of_another_hand(table, mine, tmp_path):
    assert prepare(mine, "--out", tmp_path / "plain").returncode == 0
    (mine / "clips.csv").write_bytes(table)
    done = prepare(mine, "--out", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    one, two = (SkeletonStore.open(tmp_path / name) for name in ("plain", "store"))
    assert (
        one.digest == two.digest
        and one.clips.equals(two.clips)
        and one.meta["splits"] == two.meta["splits"]
    )


def test_classes_fix_the_order(mine, tmp_path):
    (mine / "classes.txt").write_bytes("\ufeffwave\r\nnod\r\nsit\r\n\r\n".encode())
    assert prepare(mine, "--out", tmp_path / "store").returncode == 0
    store = SkeletonStore.open(tmp_path / "store")
    assert store.classes == ["wave", "nod", "sit"] and store.labels.tolist() == [2, 0, 0, 2]


def test_renormalise(mine, tmp_path):
    for renormalise in (False, True):
        assert (
            prepare(
                mine, "--out", tmp_path / str(renormalise), *["--renormalise"] * renormalise
            ).returncode
            == 0
        )
    plain, centred = (SkeletonStore.open(tmp_path / str(r)) for r in (False, True))
    assert plain[0][:, 0, 0].any() and not centred[0][:, 0, 0].any()
    assert (
        plain.meta["preparation"]["renormalise"],
        centred.meta["preparation"]["renormalise"],
    ) == (False, True)


def test_what_is_not_listed_is_counted(mine, tmp_path):
    np.save(mine / "more.npy", clip())
    done = prepare(mine, "--out", tmp_path / "store")
    assert done.returncode == 0 and "left out: not listed in clips.csv" in done.stdout
    assert SkeletonStore.open(tmp_path / "store").meta["source"]["left_out"] == {
        "not listed in clips.csv": 1
    }


# one bad clip: the file b.npy, or its row, line 3


class Hostile:
    def __reduce__(self):
        return print, ("a pickle was run",)


whole = npy(clip())
CLIPS = {
    "empty": (b"", "not a .npy array"),
    "text": (b"1 2 3\n", "not a .npy array"),
    "truncated": (whole[:-8], "440 bytes, expected 448"),
    "header truncated": (whole[:40], "not a .npy array"),
    "longer": (whole + bytes(8), "expected"),
    "NaN": (npy(np.where(np.arange(5)[:, None, None] == 3, np.nan, clip())), "frame 3, joint 0"),
    "infinite": (npy(np.full((5, 4, 2), np.inf)), "frame 0"),
    "too large for float32": (npy(np.full((5, 4, 2), 1e300)), "frame 0"),
    "pickle": (
        npy(np.array([Hostile()], dtype=object), allow_pickle=True),
        "of object, expected rows of plain numbers",
    ),
    "words": (npy(np.full((5, 4, 2), "a")), "of <U1, expected"),
    "complex": (npy(clip() + 1j), "of complex128, expected"),
    "a record": (
        npy(np.zeros((5, 4), [("x", "f4"), ("y", "f4")])),
        "expected rows of plain numbers",
    ),
    "no frame": (npy(clip(frames=0)), "expected some numbers"),
    "a number": (npy(np.float32(3)), "shape () of float32"),
    "joints": (npy(clip(joints=3)), "(5, 3, 2), expected (frames, 4 joints"),
    "persons": (npy(clip(frames=3, persons=65)), "up to 64 persons"),
    "coordinates": (npy(clip(coords=3)), "3 coordinates, expected 2"),
    "four coordinates": (npy(clip(coords=4)), "2 or 3"),
    "axes": (npy(clip().transpose(2, 0, 1)), "(2, 5, 4)"),
    "two axes": (npy(clip()[0]), "(4, 2)"),
    "archive": (b"PK\x03\x04" + bytes(100), "not a .npy array"),
    "huge": (
        whole.replace(b"(5, 4, 2), }" + b" " * 10, b"(99999999999, 4, 2), }"),
        "448 bytes, expected 6400000000064",
    ),
}
ROWS = {
    "missing file": ("nowhere.npy,wave,2,test", "nowhere.npy"),
    "climbs": ("../b.npy,wave,2,test", "outside of the folder"),
    "absolute": ("/b.npy,wave,2,test", "outside of the folder"),
    "drive": ("C:\\b.npy,wave,2,test", "outside of the folder"),
    "no file": (",wave,2,test", "file is '.'"),
    "too few cells": ("b.npy,wave,2", "3 cells, expected 4"),
    "too many cells": ("b.npy,wave,2,test,", "5 cells, expected 4"),
    "no label": ("b.npy,,2,test", "label is ''"),
    "a number among names": ("b.npy,3,2,test", "label is '3', expected a class name"),
    "subject": ("b.npy,wave,anna,test", "subject is 'anna'"),
    "negative subject": ("b.npy,wave,-2,test", "subject is '-2'"),
    "large subject": ("b.npy,wave,99999999999,test", "subject is '99999999999'"),
    "side": ("b.npy,wave,2,valid", "mine is 'valid'"),
    "twice": ("a.npy,wave,2,test", "the clip 'a' is there twice, first in line 2"),
}


def break_row(folder, row):
    lines = TABLE.splitlines()
    (folder / "clips.csv").write_text("\n".join([*lines[:2], row, *lines[3:]]))


def check_refused_and_skipped(source, tmp_path, *parts):
    """Refused with exit code 2 and one line; left out with `--on-error skip`, where the other three clips are prepared."""
    assert_mistake(
        prepare(source, "--out", tmp_path / "store"),
        tmp_path / "store",
        "clips.csv, line 3",
        *parts,
    )
    done = prepare(source, "--out", tmp_path / "store", "--on-error", "skip")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "skipped: bad, see skipped.csv" in done.stdout
    store = SkeletonStore.open(tmp_path / "store")
    assert store.names == ["a", "d", "deep/c"] and store.meta["source"]["skipped"] == 1
    assert "clips.csv, line 3" in (tmp_path / "store" / "skipped.csv").read_text()


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("kind", CLIPS)
def test_bad_clip(kind, packed, mine, tmp_path, capfd):
    content, part = CLIPS[kind]
    (mine / "b.npy").write_bytes(content)
    check_refused_and_skipped(
        zip_of(mine, tmp_path / "mine.zip") if packed else mine, tmp_path, "b.npy", part
    )
    assert "a pickle was run" not in capfd.readouterr().out


@pytest.mark.parametrize("kind", ROWS)
def test_bad_row(kind, mine, tmp_path):
    row, part = ROWS[kind]
    break_row(mine, row)
    check_refused_and_skipped(mine, tmp_path, part)


@pytest.mark.parametrize(
    "label, classes, part",
    [
        ("2", "sit\nwave\n", "whole number from 0 to 1"),
        ("-1", "sit\nwave\n", "label is '-1'"),
        ("wvae", "sit\nwave\n", "a class of classes.txt"),
        ("3", None, "label is '3'"),
    ],
)
def test_label_outside_the_range(label, classes, part, mine, tmp_path):
    break_row(mine, f"b.npy,{label},2,test")
    if classes:
        (mine / "classes.txt").write_text(classes)
    check_refused_and_skipped(mine, tmp_path, part)


@pytest.mark.parametrize("label", ["wave", "-1", "10000", "1.5"])
def test_labels_are_numbers_where_the_first_is(label, mine, tmp_path):
    (mine / "clips.csv").write_text(
        TABLE.replace("sit", "0")
        .replace("b.npy,wave", f"b.npy,{label}")
        .replace("d.npy,wave", "d.npy,1")
    )
    check_refused_and_skipped(mine, tmp_path, f"label is '{label}', expected a whole number")


# what spoils the whole


def text(change):
    return json.dumps(LAYOUT | change).encode()


WHOLE = {
    "table: empty": ("clips.csv", b"", "line 1: found nothing"),
    "table: only its head": ("clips.csv", b"file,label\n", "no clip is listed"),
    "table: no head": ("clips.csv", b"a.npy,sit\n", "line 1: found a.npy, sit, expected the names"),
    "table: semicolons": ("clips.csv", TABLE.replace(",", ";").encode(), "with commas between"),
    "table: column twice": ("clips.csv", b"file,label,label\na.npy,0,0\n", "all different"),
    "table: column without a name": ("clips.csv", b",file,label\n0,a.npy,0\n", "all different"),
    "table: open quote": (
        "clips.csv",
        b'file,label\na.npy,sit\n"b.npy,wave\n',
        "line 3: not a row",
    ),
    "table: latin-1": (
        "clips.csv",
        "file,label\na.npy,sit\nb.npy,größer\n".encode("latin-1"),
        "line 3: byte 0xf6 is not UTF-8",
    ),
    "table: UTF-16": ("clips.csv", TABLE.encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
    "table: binary": ("clips.csv", bytes(range(256)), "line 2: byte 0x80"),
    "table: missing": ("clips.csv", None, "no clips.csv beside it"),
    "classes: empty": ("classes.txt", b"\n", "classes.txt, line 1: found ''"),
    "classes: twice": ("classes.txt", b"sit\nwave\nsit\n", "classes.txt, line 3"),
    "classes: a gap": ("classes.txt", b"sit\n\nwave\n", "classes.txt, line 2"),
    "skeleton: empty": ("skeleton.json", b"", "line 1: not JSON"),
    "skeleton: truncated": (
        "skeleton.json",
        json.dumps(LAYOUT, indent=1).encode()[:60],
        "not JSON",
    ),
    "skeleton: latin-1": (
        "skeleton.json",
        '{\n"name": "größer"}'.encode("latin-1"),
        "line 2: byte 0xf6",
    ),
    "skeleton: a list": ("skeleton.json", b"[]", "expected name, joints"),
    "skeleton: deep": ("skeleton.json", b"[" * 100000, "not JSON"),
    "skeleton: a field too few": (
        "skeleton.json",
        b'{"name": "x", "joints": ["a"]}',
        "expected name, joints",
    ),
    "skeleton: a field too many": ("skeleton.json", text({"colour": "red"}), "colour"),
    "skeleton: unknown joint": (
        "skeleton.json",
        text({"center": "hipp"}),
        "no joint is called 'hipp'",
    ),
    "skeleton: index": ("skeleton.json", text({"bones": [[4, 0]]}), "from 0 to 3"),
    "skeleton: joints": ("skeleton.json", text({"joints": "abc"}), "joints is 'abc'"),
    "skeleton: joint twice": (
        "skeleton.json",
        text({"joints": [*JOINTS, "hip"]}),
        "joint 'hip' is given twice",
    ),
    "skeleton: limbs": ("skeleton.json", text({"limbs": [["arm"]]}), "limbs.0"),
    "skeleton: missing": ("skeleton.json", None, "expected"),
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_no_clip_can_be_read(kind, on_error, mine, tmp_path):
    name, content, part = WHOLE[kind]
    (mine / name).unlink() if content is None else (mine / name).write_bytes(content)
    assert_mistake(
        prepare(mine, "--out", tmp_path / "store", "--format", "folder", "--on-error", on_error),
        tmp_path / "store",
        part,
    )


def test_every_clip_is_bad(mine, tmp_path):
    for file in mine.rglob("*.npy"):
        file.write_bytes(b"")
    for on_error in ("fail", "skip"):
        assert_mistake(
            prepare(mine, "--out", tmp_path / "store", "--on-error", on_error), tmp_path / "store"
        )


def test_two_data_sets(mine, tmp_path):
    shutil.copytree(mine, tmp_path / "both" / "one")
    shutil.copytree(mine, tmp_path / "both" / "two")
    assert_mistake(
        prepare(tmp_path / "both", "--out", tmp_path / "store"),
        tmp_path / "store",
        "two/skeleton.json",
        "expected one data set",
    )


def test_a_store_is_no_source(mine, tmp_path):
    assert prepare(mine, "--out", tmp_path / "store").returncode == 0
    assert_mistake(
        prepare(tmp_path / "store", "--out", tmp_path / "again", "--format", "folder"),
        tmp_path / "again",
        "prepared already",
    )


def test_hostile_zips(mine, tmp_path):
    with zipfile.ZipFile(tmp_path / "climb.zip", "w") as archive:
        archive.writestr("../skeleton.json", json.dumps(LAYOUT))
    assert_mistake(
        prepare(tmp_path / "climb.zip", "--out", tmp_path / "store", "--format", "folder"),
        tmp_path / "store",
        "outside",
    )

    head, size = (
        npy(np.zeros((2**23, 4, 2)))[:128],
        2**29 + 128,
    )  # half a gigabyte of zeros, packed into half a megabyte
    (mine / "b.npy").unlink()
    zip_of(mine, tmp_path / "bomb.zip")
    with (
        zipfile.ZipFile(tmp_path / "bomb.zip", "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("mine/b.npy", "w") as file,
    ):
        file.write(head)
        for _ in range((size - 128) // 2**24):
            file.write(bytes(2**24))
    check_refused_and_skipped(tmp_path / "bomb.zip", tmp_path, "b.npy", "expected at most")

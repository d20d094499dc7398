"""Files from strangers: none runs code, writes outside its folder, fills the memory or shows a traceback. Each is refused in one line, or read as what it is.

Pickles that want more than arrays have their own table, `HOSTILE` in test_formats_arrays.py; here they stand in the place of every other file.
"""

import ast
import builtins
import copyreg
import io
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_mistake, scdnet, tree
from safetensors.torch import load_file, save_file
from small import TINY, random_walks

from scdnet.data.mannequin.ntu_files import skeleton_text
from scdnet.data.mannequin.perform import perform
from scdnet.data.store import SkeletonStore
from scdnet.training.pretrain import pretrain

PACKAGE = Path(__file__).parents[1] / "scdnet"
case = pytest.mark.parametrize


# what strangers send


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(canary):
    """Pickles each of which makes the file `canary` when a careless reader loads it."""
    touch, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    array = np.empty(1, dtype=object)
    array[0] = Calls(os.system, touch)
    return {
        "system": pickle.dumps(Calls(os.system, touch)),
        "eval": pickle.dumps(Calls(builtins.eval, code)),
        "exec": pickle.dumps(Calls(builtins.exec, code), 0),
        "open": pickle.dumps(Calls(open, str(canary), "w")),
        "nested": pickle.dumps({"annotations": [{"label": [{"a": (Calls(os.system, touch),)}]}]}),
        "array": pickle.dumps(array),
        "getattr": b"\x80\x04cbuiltins\ngetattr\ncos\nsystem\n\x8c\x08__call__\x86R\x8c"
        + bytes([len(touch)])
        + touch.encode()
        + b"\x85R.",
        "copyreg": pickle.dumps(Calls(copyreg._reconstructor, os._wrap_close, object, None))[:-1]
        + pickle.dumps(Calls(os.system, touch))[2:],
        "state": b"\x80\x02cscdnet.utils.files\ndigest\n}X\x0c\x00\x00\x00__defaults__)s"
        + b"b0"
        + pickle.dumps(Calls(os.system, touch), 2)[2:],
    }


KINDS = list(payloads("canary"))


def npy(header, content=b"", version=b"\x01\x00"):
    """A `.npy` file with any text for a header."""
    text = header.encode() if isinstance(header, str) else header
    length = struct.pack("<H", len(text)) if version[0] == 1 else struct.pack("<I", len(text))
    return b"\x93NUMPY" + version + length + text + content


def describes(shape, kind="'<f4'", order="False"):
    return f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def zipped(members, how=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


CLIP = skeleton_text(perform(7, seed=0)).encode()
RAW = "S001C001P001R001A007.skeleton"
JOINTS = ["hip", "knee", "foot"]
LAYOUT = {"name": "leg", "joints": JOINTS, "bones": [[1, 0], [2, 1]], "pairs": [], "center": 0}


def whole_npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def folder_set(**changed):
    """A good set of one's own clips, but for the files that are given."""
    files = {
        "skeleton.json": json.dumps(LAYOUT).encode(),
        "clips.csv": b"file,label\na.npy,0\nb.npy,1\n",
        "a.npy": whole_npy(np.ones((5, 3, 2))),
        "b.npy": whole_npy(np.ones((6, 3, 2))),
    }
    return files | {name.replace("_", "."): content for name, content in changed.items()}


def official(**changed):
    """A small checkpoint with the names of the published code; the notebook of chapter 33 makes them all."""
    old = {
        "encoder_q.encoder.gcn_t.l1.gcn1.bn.weight": torch.ones(8),
        "encoder_q.encoder.channel_s.0.weight": torch.ones(32, 256),
        "t_queue": torch.ones(16, 4),
    }
    return old | changed


def torch_file(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def repacked(content, change, how=zipfile.ZIP_STORED):
    """A zip whose members went through `change(name, content)`."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return zipped(
            [(name, change(name, archive.read(name))) for name in archive.namelist()], how
        )


def larger_than_its_record():
    """A checkpoint whose pickle says that a record of 8 numbers has 2^20: a naive reader looks beyond its memory."""
    whole = torch_file({"state_dict": {"a": torch.ones(2**20)}})
    return repacked(
        whole, lambda name, content: content[:32] if name.endswith("data/0") else content
    )


SAFE = {
    "length": struct.pack("<Q", 2**62) + b"{}",
    "long": struct.pack("<Q", 99_999_999) + b"{}" + bytes(100),
}


def safe(entries, content=bytes(64)):
    """A safetensors file with any header."""
    header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + content


def tensor(start, stop, shape=(4,), kind="F32"):
    return {"dtype": kind, "shape": list(shape), "data_offsets": [start, stop]}


SAFE |= {
    "overlap": safe({"a": tensor(0, 16), "b": tensor(8, 24)}, bytes(24)),
    "negative": safe({"a": tensor(-16, 0)}),
    "beyond": safe({"a": tensor(0, 2**50, (2**48,))}),
    "overflow": safe({"a": tensor(0, 64, (2**40, 2**40))}),
    "twice": safe(
        b'{"a":'
        + json.dumps(tensor(0, 64, (16,))).encode()
        + b',"a":'
        + json.dumps(tensor(0, 64, (16,))).encode()
        + b"}"
    ),
    "deep": safe(b"[" * 10**5),
    "not JSON": safe(b"import os"),
    "empty": b"",
    "type": safe({"a": tensor(0, 64, (16,), "O")}),
}


# zips


def entry(name, content=CLIP, **fields):
    """A member that claims something else than it is."""
    info = zipfile.ZipInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def central(content, offset, value):
    """Change bytes of the first record of a zip's directory."""
    at = content.rfind(b"PK\x05\x06")
    first = struct.unpack("<I", content[at + 16 : at + 20])[0]
    return content[: first + offset] + value + content[first + offset + len(value) :]


def overlapping(count=50):
    """A directory of many names for the same few bytes."""
    whole = zipped([(RAW, CLIP)], zipfile.ZIP_DEFLATED)
    at = whole.rfind(b"PK\x05\x06")
    start = struct.unpack("<I", whole[at + 16 : at + 20])[0]
    record, records = whole[start:at], b""
    for i in range(count):
        records += record.replace(RAW.encode(), f"S{i + 1:03}C001P001R001A007.skeleton".encode())
    end = bytearray(whole[at:])
    end[8:12], end[12:16] = struct.pack("<HH", count, count), struct.pack("<I", len(records))
    return whole[:start] + records + bytes(end)


ZIPS = {
    "up": (zipped([("../evil.skeleton", CLIP)]), "outside"),
    "up in the middle": (zipped([("a/../../evil.skeleton", CLIP)]), "outside"),
    "up with backslashes": (zipped([("..\\evil.skeleton", CLIP)]), "outside"),
    "absolute": (zipped([("/tmp/evil.skeleton", CLIP)]), "outside"),
    "twice": (
        zipped([(RAW, CLIP)])[:0]
        + repacked(
            zipped([(RAW, CLIP), (RAW.replace("R001", "R002"), CLIP)]), lambda n, c: c
        ).replace(b"R002A007", b"R001A007"),
        "twice",
    ),
    "link": (zipped([entry(RAW, b"/etc/passwd", external_attr=0o120777 << 16)]), "line 1"),
    "ratio": (zipped([(RAW, bytes(3 * 10**7))], zipfile.ZIP_DEFLATED), "expected at most"),
    "nested": (
        zipped([("a.zip", zipped([(RAW, bytes(10**6))], zipfile.ZIP_DEFLATED))]),
        "no recordings",
    ),
    "itself": (zipped([("x.zip", zipped([("x.zip", b"PK")]))]), "no recordings"),
    "overlapping": (overlapping(), "overlap"),
    "announces 4 GB": (
        central(zipped([(RAW, CLIP)]), 24, struct.pack("<I", 2**32 - 2)),
        "expected at most",
    ),
    "packed 4 GB": (central(zipped([(RAW, CLIP)]), 20, struct.pack("<I", 2**32 - 2)), "overlap"),
    "encrypted": (central(zipped([(RAW, CLIP)]), 8, b"\x01\x00"), "encrypted"),
    "unknown method": (central(zipped([(RAW, CLIP)]), 10, b"\x63\x00"), "compression method 99"),
    "offset": (central(zipped([(RAW, CLIP)]), 42, struct.pack("<I", 10**9)), "zip"),
    "version": (central(zipped([(RAW, CLIP)]), 6, b"\xff\x00"), "version"),
    "screen": (zipped([(f"\x1b[2J\x1b[31m{RAW}", b"garbage")]), "\\x1b[2J"),
    "only the end": (zipped([(RAW, CLIP)])[-22:], "zip"),
}


@case("what", ZIPS)
def test_zip(what, tmp_path):
    content, part = ZIPS[what]
    (tmp_path / "raw.zip").write_bytes(content)
    done = scdnet("prepare", tmp_path / "raw.zip", "--out", tmp_path / "store", "--workers", "1")
    assert_mistake(done, "raw.zip", part)
    assert done.stderr[:-1].isprintable() and tree(tmp_path) == ["raw.zip"]


def test_a_bomb_among_good_members_is_skipped(tmp_path):
    (tmp_path / "raw.zip").write_bytes(
        zipped(
            [
                (RAW, CLIP),
                (RAW.replace("P001", "P002"), bytes(3 * 10**7)),
                ("../evil.skeleton", CLIP),
            ],
            zipfile.ZIP_DEFLATED,
        )
    )
    done = scdnet(
        "prepare",
        tmp_path / "raw.zip",
        "--out",
        tmp_path / "store",
        "--on-error",
        "skip",
        "--workers",
        "1",
    )
    assert done.returncode == 0, done.stderr
    assert SkeletonStore.open(tmp_path / "store").names == [RAW.removesuffix(".skeleton")] and tree(
        tmp_path
    ) == ["raw.zip", "store", *tree_of_store()]


def tree_of_store():
    names = "clips.csv", "frames.npy", "meta.json", "skipped.csv", "trajectory.npy"
    return [f"store/{name}" for name in names]


@case("what", ["pipe", "zero", "folder", "nowhere", "socket"])
def test_what_is_no_ordinary_file(what, tmp_path, monkeypatch):
    """A pipe would block, /dev/zero never end."""
    place = tmp_path / "raw"
    place.mkdir()
    (place / RAW.replace("P001", "P002")).write_bytes(CLIP)
    path = place / RAW
    if what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        monkeypatch.chdir(place)  # a socket's path has a hundred letters at most
        with socket.socket(socket.AF_UNIX) as endpoint:
            endpoint.bind(path.name)
    elif what == "folder":
        path.symlink_to(
            tmp_path, target_is_directory=True
        )  # a circle; links to folders are not followed
    else:
        path.symlink_to("/dev/zero" if what == "zero" else tmp_path / "nowhere")
    words = ["prepare", place, "--out", tmp_path / "store", "--workers", "1"]
    if what != "folder":
        assert_mistake(scdnet(*words), RAW, "no ordinary file")
        words += ["--on-error", "skip"]
    done = scdnet(*words)
    assert done.returncode == 0 and len(SkeletonStore.open(tmp_path / "store")) == 1, done.stderr


# numbers, tables and JSON that are not what they seem

TRICKS = {
    "a call": npy(
        "{'descr': __import__('os').system('touch canary'), 'fortran_order': False, 'shape': (1,)}\n"
    ),
    "a comprehension": npy(
        "{'descr': '<f4', 'fortran_order': False, 'shape': tuple(x for x in (open('canary', 'w'),))}\n"
    ),
    "a power": npy(describes("(9**9**9,)")),
    "a million millions": npy(describes("(1000000000000, 3, 2)"), bytes(240)),
    "overflow": npy(describes("(4294967296, 4294967296, 3, 2)"), bytes(240)),
    "negative": npy(describes("(-1, 3, 2)"), bytes(240)),
    "a float": npy(describes("(1e3, 3, 2)")),
    "objects": whole_npy(np.array([Calls(os.system, "touch canary")], dtype=object)),
    "objects named": npy(describes("(1,)", "'|O'"), pickle.dumps(Calls(os.system, "touch canary"))),
    "a record": npy(describes("(1,)", "[('a', '<f4'), ('b', '|O')]"), bytes(12)),
    "a type of a gigabyte": npy(describes("(1,)", "'<U268435456'")),
    "a type of nothing": npy(describes("(1000000000000,)", "'|S0'")),
    "deep": npy("(" * 5000),
    "brackets": npy("{" * 9000 + "}" * 9000),
    "a string without an end": npy("{'descr': '''"),
    "long": npy(b" " * 65535),
    "not ASCII": npy(b"\xff" * 100),
    "NUL": npy(b"\x00" * 100),
    "version 2": npy(describes("(5, 3, 2)"), bytes(120), b"\x02\x00"),
    "version 3 of 4 GB": b"\x93NUMPY\x03\x00" + b"\xff" * 4,
    "version 9": npy(describes("(5, 3, 2)"), bytes(120), b"\x09\x00"),
    "no keys": npy("{}"),
    "other keys": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}"),
}
TABLES = {
    "NUL": (b"file,label\na.npy\0,0\n", "clips.csv"),
    "a line break in a name": (b'file,label,name\na.npy,0,"a\nS001"\n', "printed"),
    "a carriage return": (b'file,label,name\na.npy,0,"a\rS001"\n', "printed"),
    "escape": (b"file,label,name\na.npy,0,a\x1b[2J\n", "printed"),
    "right to left": ("file,label,name\na.npy,0,a\u202eb\n".encode(), "printed"),
    "a name of 1 kB": (b"file,label,name\na.npy,0," + b"x" * 1000 + b"\n", "characters"),
    "a cell of 1 MB": (b"file,label\na.npy," + b"x" * 10**6 + b"\n", "characters"),
    "ten million columns": (b"file,label" + b",x" * 10**7 + b"\n", "characters"),
    "ten million cells": (b"file,label\na.npy,0" + b"," * 10**7 + b"\n", "characters"),
    "quotes without an end": (b'file,label\na.npy,"' + b"0\n" * 1000, "not a row"),
    "up": (b"file,label\n../a.npy,0\n", "outside"),
    "absolute": (b"file,label\n/etc/passwd,0\n", "outside"),
    "a drive": (b"file,label\nC:\\a.npy,0\n", "outside"),
    "a label of 10^18": (b"file,label\na.npy,1\nb.npy,1000000000000000000\n", "label"),
    "NaN": (b"file,label\na.npy,0\nb.npy,nan\n", "label"),
    "a number of 5000 digits": (b"file,label\na.npy," + b"9" * 5000 + b"\nb.npy,0\n", "label"),
}
LAYOUTS = {
    "deep": (b"[" * 10**5, "brackets"),
    "deep and whole": (b'{"name": ' + b"[" * 900 + b"]" * 900 + b"}", "brackets"),
    "twice": (json.dumps(LAYOUT).encode().replace(b'"center"', b'"name": "x", "center"'), "twice"),
    "5000 digits": (
        json.dumps(LAYOUT).encode().replace(b'"center": 0', b'"center": ' + b"9" * 5000),
        "digits",
    ),
    "300 digits": (
        json.dumps(LAYOUT).encode().replace(b'"center": 0', b'"center": ' + b"9" * 300),
        "from 0 to 2",
    ),
    "NaN": (
        json.dumps(LAYOUT).encode().replace(b'"center": 0', b'"center": NaN'),
        "center is 'nan'",
    ),
    "infinity": (
        json.dumps(LAYOUT).encode().replace(b'"center": 0', b'"center": 1e999'),
        "center is 'inf'",
    ),
    "a name that is none": (json.dumps(LAYOUT | {"name": {"a": [1]}}).encode(), "name"),
    "a hundred thousand joints": (
        json.dumps(LAYOUT | {"joints": [f"j{i}" for i in range(90_000)]}).encode(),
        "at most 1000 items",
    ),
    "surrogates": (
        json.dumps(LAYOUT | {"joints": ["\ud800", "b", "c"], "center": 9}).encode(),
        "joints.0 is",
    ),
    "2 MB": (json.dumps(LAYOUT).encode() + b" " * 2**21, "expected at most"),
    "NUL": (b"\0" * 100, "not JSON"),
    "UTF-32": (json.dumps(LAYOUT).encode("utf-32"), "not"),
}


def write_set(folder, files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def refused(words, *parts, before):
    """One line, and everything lies as it lay."""
    done = scdnet(*words)
    assert_mistake(done, *parts)
    assert done.stderr[:-1].isprintable() and len(done.stderr) < 2100, done.stderr[:3000]
    assert tree(Path.cwd()) == before


@case("what", TRICKS)
def test_npy(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "mine", folder_set(a_npy=TRICKS[what]))
    refused(["prepare", "mine", "--out", "store", "--workers", "1"], "a.npy", before=tree(tmp_path))
    shutil.copytree("mine", "more")
    write_set(
        tmp_path / "ctrgcn",
        {
            "NTU60_CS.npz": zipped(
                [
                    (f"{kind}_{side}.npy", TRICKS[what])
                    for side in ("train", "test")
                    for kind in "xy"
                ]
            )
        },
    )
    refused(
        ["prepare", "ctrgcn", "--out", "store", "--workers", "1"],
        "NTU60_CS.npz",
        before=tree(tmp_path),
    )
    write_set(
        tmp_path / "agcn",
        {"train_data_joint.npy": TRICKS[what], "train_label.pkl": pickle.dumps((["a"], [0]))},
    )
    refused(
        ["prepare", "agcn", "--out", "store", "--workers", "1"],
        "train_data_joint.npy",
        before=tree(tmp_path),
    )
    (tmp_path / "weights.npz").write_bytes(zipped([("t_queue.npy", TRICKS[what])]))
    refused(
        ["import-official", "weights.npz", "--out", "run"], "weights.npz", before=tree(tmp_path)
    )


@case("what", TABLES)
def test_table(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, part = TABLES[what]
    write_set(tmp_path / "mine", folder_set(clips_csv=content))
    refused(
        ["prepare", "mine", "--out", "store", "--workers", "1"], "mine", part, before=tree(tmp_path)
    )


@case("what", LAYOUTS)
def test_layout(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, part = LAYOUTS[what]
    write_set(tmp_path / "mine", folder_set(skeleton_json=content))
    refused(
        ["prepare", "mine", "--out", "store", "--workers", "1"],
        "skeleton.json",
        part,
        before=tree(tmp_path),
    )


def test_a_formula_is_a_name_like_others(tmp_path):
    """It is kept as it is: nothing of ours computes it. In pages it is escaped, and in tables it stands in its own cell."""
    names = ["=cmd|' /C calc'!A0", "@SUM(1+1)*cmd", '<script>alert("x")</script>', 'a","b', "-2+3"]
    rows = "".join(
        f'{file},{label},"{name.replace(chr(34), chr(34) * 2)}"\n'
        for file, label, name in zip(
            ("a.npy", "b.npy", "a.npy", "b.npy", "a.npy"), (0, 1, 0, 1, 0), names, strict=True
        )
    )
    write_set(tmp_path / "mine", folder_set(clips_csv=b"file,label,name\n" + rows.encode()))
    assert (
        scdnet(
            "prepare", tmp_path / "mine", "--out", tmp_path / "store", "--workers", "1"
        ).returncode
        == 0
    )
    store = SkeletonStore.open(tmp_path / "store")
    assert (
        sorted(store.names) == sorted(names)
        and len((tmp_path / "store" / "clips.csv").read_text().splitlines()) == 6
    )


@case(
    "place",
    [
        "mine/clips.csv",
        "mine/skeleton.json",
        "mine/a.npy",
        "NTU60_CS.npz",
        "agcn/train_data_joint.npy",
        "a01_s01_e00_v01.json",
        f"raw/{RAW}",
        "raw.zip",
        "pku/0002-L.txt",
        "a.pkl",
        "agcn/train_label.pkl",
    ],
)
@case("kind", KINDS)
def test_a_pickle_in_the_place_of_a_recording(kind, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "mine", folder_set())
    for folder in ("agcn", "raw", "pku"):
        (tmp_path / folder).mkdir()
    np.save("agcn/train_data_joint.npy", np.ones((1, 3, 2, 25, 2), np.float32))
    (tmp_path / "agcn/train_label.pkl").write_bytes(pickle.dumps((["a"], [0])))
    (tmp_path / place).write_bytes(payloads(tmp_path / "canary")[kind])
    refused(
        ["prepare", place.partition("/")[0], "--out", "store", "--workers", "1"],
        place.partition("/")[0],
        before=tree(tmp_path),
    )


@case("kind", [kind for kind in KINDS if kind != "array"])
def test_the_canary_would_sing(kind, tmp_path):
    """The pickles do what they say where somebody loads them carelessly."""
    code = f"import pickle\ntry: pickle.loads({payloads(tmp_path / 'canary')[kind]!r})\nexcept Exception: pass"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
    assert (tmp_path / "canary").exists()


# stores and runs


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A store, a run on it, and a run that was stopped after its first epoch."""
    place = tmp_path_factory.mktemp("home")
    store = random_walks(place / "store", xsub=(slice(0, 16), slice(16, 32)))
    pretrain(store, "xsub", TINY, place / "run", preset="demo", progress=False)
    (place / "run" / "eval").mkdir()
    assert (
        scdnet(
            "evaluate", "knn", "--run", place / "run", "--store", place / "store", "--split", "xsub"
        ).returncode
        == 0
    )
    return place


@pytest.fixture
def mine(home, tmp_path, monkeypatch):
    """Copies that may be damaged, in the current folder."""
    for name in ("store", "run"):
        shutil.copytree(home / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(path, *edits):
    """A JSON file with other values: (dotted name, value)."""
    content = json.loads(path.read_text())
    for name, value in edits:
        *way, last = name.split(".")
        below = content
        for key in way:
            below = below[key]
        below[last] = value
    path.write_text(json.dumps(content))


META = [
    ("frames", 10**30),
    ("frames", -1),
    ("frames", True),
    ("frames", 1.5),
    ("persons", 0),
    ("persons", 2**70),
    ("coords", []),
    ("clips", None),
    ("version", 99),
    ("format", []),
    ("classes", [1, 2, 3, 4]),
    ("classes", ["a\x1b[2J"] * 4),
    ("classes", []),
    ("splits", {"rule": []}),
    ("splits", {"rule": {"a": 1}}),
    ("splits", {"lists": []}),
    ("splits", {"lists": {"x": {"train": [[]], "test": []}}}),
    ("splits", {"lists": {"x": {"train": ["clip00"], "test": ["clip00"]}}}),
    ("splits", {"rule": "ntu60", "x": 1}),
    ("skeleton", {}),
    ("skeleton.joints", ["a"] * 20),
    ("skeleton.center", 10**30),
    ("skeleton.name", []),
    ("skeleton.bones", [[0, []]]),
    ("digest", 7),
    ("dataset", []),
    ("dataset", "a\x1b[2J"),
]


@case("name, value", META, ids=[f"{name}={str(value)[:20]}" for name, value in META])
def test_metadata_of_a_store(name, value, mine):
    changed(mine / "store" / "meta.json", (name, value))
    refused(["inspect", "store"], "store", before=tree(mine))


@case("what", LAYOUTS)
def test_json_of_a_store_and_of_a_run(what, mine):
    content = LAYOUTS[what][0]
    (mine / "store" / "meta.json").write_bytes(content)
    refused(["inspect", "store"], "meta.json", before=tree(mine))
    shutil.rmtree("store")
    (mine / "run" / "config.json").write_bytes(content)
    refused(
        ["embed", "--run", "run", "--store", "store", "--out", "x.npz"],
        "config.json",
        before=tree(mine),
    )
    (mine / "run" / "eval" / "knn-xsub-demo-seed0.json").write_bytes(content)
    refused(
        ["results", "run/eval/knn-xsub-demo-seed0.json"],
        "knn-xsub-demo-seed0.json",
        before=tree(mine),
    )


CSV = {
    "NUL": lambda t: t.replace("clip00", "cl\0p00"),
    "line break": lambda t: t.replace("clip00", '"clip\n00"'),
    "escape": lambda t: t.replace("clip00", "clip\x1b[2J"),
    "columns": lambda t: t.replace("name,", "name," + "x," * 10**6, 1),
    "cells": lambda t: t.replace("\nclip01", "\n" + "x," * 10**6 + "clip01"),
    "a cell more": lambda t: "\n".join(
        [t.splitlines()[0], *("x," + line for line in t.splitlines()[1:])]
    ),
    "no name": lambda t: t.replace("clip00", ""),
    "start": lambda t: t.replace("clip00,0,", "clip00,1,"),
    "length": lambda t: t.replace("clip00,0,", "clip00,0,9"),
    "10^30": lambda t: t.replace("clip00,0,", f"clip00,{10**30},"),
    "formula": lambda t: t.replace("clip00,0,", "clip00,=1+1,"),
    "quotes": lambda t: t.replace("clip00", '"clip00'),
    "twice": lambda t: t.replace("clip01", "clip00"),
    "label": lambda t: t.replace(",0,-1", f",{2**63 - 1},-1"),
    "wraps": lambda t: (
        t.splitlines()[0] + f"\na,0,{2**62},1,0,0,0,0,0\nb,{2**62},{2**62},1,0,0,0,0,0\n" * 2
    ),
    "a long name": lambda t: t.replace("clip00", "c" * 10**5),
}


@case("what", CSV)
def test_table_of_a_store(what, mine):
    path = mine / "store" / "clips.csv"
    path.write_text(CSV[what](path.read_text()))
    refused(["inspect", "store"], "clips.csv", before=tree(mine))


@case("what", [*TRICKS, *KINDS])
def test_frames_of_a_store(what, mine):
    """Also where the file has the size that the metadata announce."""
    path = mine / "store" / "frames.npy"
    content, size = (TRICKS | payloads(mine / "canary"))[what], path.stat().st_size
    for damage in (content, content[:size].ljust(size, b"\0")):
        path.write_bytes(damage)
        refused(["inspect", "store"], "frames.npy", before=tree(mine))


CONFIG = [
    ("config", []),
    ("config", {"epochs": []}),
    ("config.epochs", "1"),
    ("config.epochs", True),
    ("config.seed", 10**30),
    ("config.queue_size", 2.5),
    ("config.stream", "x"),
    ("config.stream", []),
    ("config.precision", "fp8"),
    ("config.encoder", None),
    ("config.encoder.width", 10**9),
    ("config.encoder.width", 20000),
    ("config.encoder.layers", 10**9),
    ("config.encoder.layers", 90),
    ("config.encoder.heads", 10**400),
    ("config.encoder.frames", 16.0),
    ("config.encoder.channels", -8),
    ("config.encoder.extractor", "os.system"),
    ("config.encoder.surprise", 1),
    ("config.optim.drops", "abc"),
    ("config.optim.drops", [[1]]),
    ("config.optim.lr", 10**400),
    ("config.optim.lr", None),
    ("config.view.spatial_n", 10**9),
    ("persons", 10**9),
    ("persons", "1"),
    ("persons", 2),
    ("coords", 2),
    ("coords", -1),
    ("skeleton", []),
    ("skeleton.joints", []),
]


@case("name, value", CONFIG, ids=[f"{name}={str(value)[:20]}" for name, value in CONFIG])
def test_configuration_of_a_run(name, value, mine):
    changed(mine / "run" / "config.json", (name, value))
    refused(
        ["embed", "--run", "run", "--store", "store", "--out", "x.npz"], "run", before=tree(mine)
    )
    if not name.startswith(("config.stream", "config.precision")):
        refused(
            [
                "evaluate",
                "knn",
                "--run",
                "run",
                "--store",
                "store",
                "--split",
                "xsub",
                "--out",
                "x.json",
            ],
            "run",
            before=tree(mine),
        )


@case("what", [*SAFE, *KINDS])
def test_weights_of_a_run(what, mine):
    (mine / "run" / "encoder.safetensors").write_bytes((SAFE | payloads(mine / "canary"))[what])
    refused(
        ["embed", "--run", "run", "--store", "store", "--out", "x.npz"],
        "encoder.safetensors",
        before=tree(mine),
    )


def test_weights_that_are_no_numbers(mine):
    path = mine / "run" / "encoder.safetensors"
    weights = load_file(path)
    save_file(
        {
            name: torch.full_like(value, torch.nan) if value.is_floating_point() else value
            for name, value in weights.items()
        },
        path,
    )
    refused(
        ["embed", "--run", "run", "--store", "store", "--out", "x.npz"],
        "not finite",
        before=tree(mine),
    )


RESULTS = {
    "top1": ("top1", 10**400),
    "NaN": ("top1", float("nan")),
    "hours": ("hours", [1]),
    "machine": ("machine", 3),
    "store": ("store", []),
    "config": ("config", 3),
    "run": ("run", {"config": {"encoder": 3}}),
    "split": ("split", "a\x1b[2J"),
    "protocol": ("protocol", []),
    "command": ("command", "x\ny"),
    "baselines": ("baselines", {"raw": 1}),
    "seed": ("run_seed", "one"),
    "page": ("run", 7),
}


@case("what", RESULTS)
def test_results_of_a_run(what, mine):
    path = mine / "run" / "eval" / "knn-xsub-demo-seed0.json"
    changed(path, RESULTS[what])
    refused(
        ["results", "run/eval/knn-xsub-demo-seed0.json"],
        "knn-xsub-demo-seed0.json",
        before=tree(mine),
    )


METRICS = [
    b"[",
    b'{"epoch": 1, "seconds": "x"}',
    b'{"epoch": 1, "seconds": ' + b"9" * 400 + b"}",
    b"[[[]]]",
    b"\xff",
    b'{"epoch": 1}',
    b'{"epoch": 1, "seconds": null}',
    b"[" * 10**5,
]


@case("content", METRICS, ids=lambda v: v[:20].decode("latin-1"))
def test_metrics_of_a_run(content, mine):
    (mine / "run" / "metrics.jsonl").write_bytes(content + b"\n")
    refused(
        [
            "evaluate",
            "knn",
            "--run",
            "run",
            "--store",
            "store",
            "--split",
            "xsub",
            "--out",
            "x.json",
        ],
        "metrics.jsonl",
        before=tree(mine),
    )


def sealed(folder):
    """Digests that fit, as somebody who means harm would write them."""
    from scdnet.training.checkpoint import _digests

    numbers = json.loads((folder / "state.json").read_text())
    numbers.pop("digests")
    seals = _digests(folder, numbers)
    (folder / "state.json").write_text(json.dumps(numbers | {"digests": seals}))


def state(name, change):
    """Change one tensor file of a checkpoint."""

    def apply(folder):
        tensors = load_file(folder / f"{name}.safetensors")
        save_file(change(tensors), folder / f"{name}.safetensors")

    return apply


def number(name, value):
    return lambda folder: changed(folder / "state.json", (name, value))


def first(tensors):
    return next(name for name in sorted(tensors) if tensors[name].dim())


CHECKPOINTS = {
    "optimiser: another shape": state("optimizer", lambda t: t | {first(t): torch.ones(3, 3)}),
    "optimiser: another name": state("optimizer", lambda t: t | {"0.__class__": torch.ones(1)}),
    "optimiser: a name without a number": state("optimizer", lambda t: t | {"x": torch.ones(1)}),
    "optimiser: parameter 10^9": state(
        "optimizer", lambda t: t | {"1000000000.step": torch.ones(())}
    ),
    "optimiser: a part missing": state(
        "optimizer", lambda t: {n: v for n, v in t.items() if n != first(t)}
    ),
    "optimiser: garbage": lambda folder: (folder / "optimizer.safetensors").write_bytes(
        SAFE["overlap"]
    ),
    "model: garbage": lambda folder: (folder / "model.safetensors").write_bytes(SAFE["length"]),
    "model: another shape": state("model", lambda t: t | {first(t): torch.ones(3, 3)}),
    "model: a name more": state("model", lambda t: t | {"x": torch.ones(3)}),
    "model: nothing": state("model", lambda t: {}),
    "steps: below zero": number("steps_done", -1),
    "steps: 10^30": number("steps_done", 10**30),
    "steps: text": number("steps_done", "4"),
    "sums: text": number("sums", "ab"),
    "sums: many": number("sums", [0.0] * 1000),
}


@case("what", CHECKPOINTS)
def test_checkpoint(what, mine):
    """A resumed run believes a checkpoint whose digests fit, but not blindly."""
    folder = max((mine / "run" / "checkpoint").iterdir())
    CHECKPOINTS[what](folder)
    sealed(folder)
    words = [
        "pretrain",
        "--store",
        "store",
        "--split",
        "xsub",
        "--out",
        "run",
        "--preset",
        "demo",
        "--resume",
        *flags(),
    ]
    refused(words, folder.name, before=tree(mine))


@case(
    "content",
    [b"[]", b'{"digests": {"../../../etc/passwd": "x"}}', b"[" * 10**5],
    ids=lambda v: v[:30].decode("latin-1"),
)
def test_checkpoint_without_digests_is_damaged(content, mine):
    """It is passed over, and the run starts anew."""
    for folder in (mine / "run" / "checkpoint").iterdir():
        (folder / "state.json").write_bytes(content)
    done = scdnet(
        "pretrain",
        "--store",
        "store",
        "--split",
        "xsub",
        "--out",
        "run",
        "--preset",
        "demo",
        "--resume",
        *flags(),
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


def flags():
    """TINY on the command line."""
    from scdnet.paper.ablations import as_flags, differences, plain
    from scdnet.training.config import PRESETS

    found = differences(plain(TINY), plain(PRESETS["demo"]))
    return [*as_flags(found).split(), "--device", "cpu", "--save-every", "1"]


# official checkpoints

expanded = torch.ones(1).expand(2**30)
OFFICIAL = {
    "stride 0": torch_file({"state_dict": {"t_queue": expanded}}),
    "larger than its record": larger_than_its_record(),
    "a list": torch_file([1, 2]),
    "a number": torch_file(3),
    "no names": torch_file({1: torch.ones(2)}),
    "no tensors": torch_file({"state_dict": {"a": "b"}}),
    "a state dict of a list": torch_file({"state_dict": [1]}),
    "sparse": torch_file({"a": torch.eye(3).to_sparse()}),
    "complex": torch_file({"a": torch.ones(2, dtype=torch.complex64)}),
    "on no device": torch_file({"a": torch.ones(2, device="meta")}),
    "deflated": repacked(
        torch_file(official()),
        lambda n, c: c + bytes(10**8) * n.endswith("data/0"),
        zipfile.ZIP_DEFLATED,
    ),
    "old": torch_file(official(), _use_new_zipfile_serialization=False),
    "other dimensions": torch_file(official(t_queue=torch.ones(()))),
    "no numbers": torch_file(
        official(**{"encoder_q.encoder.gcn_t.l1.gcn1.bn.weight": torch.ones(0)})
    ),
    "wide": torch_file(
        official(**{"encoder_q.encoder.channel_s.0.weight": torch.ones(200_000, 1)})
    ),
    "too few": torch_file(official()),
    "cut": torch_file(official())[:-100],
    "empty": b"",
    "text": b"hello",
    "no pickle": zipped([("archive/data.pkl", b""), ("archive/version", b"3")]),
}


@case("what", OFFICIAL)
def test_official_checkpoint(what, mine):
    (mine / "c.pth.tar").write_bytes(OFFICIAL[what])
    refused(["import-official", "c.pth.tar", "--out", "new"], "c.pth.tar", before=tree(mine))


@case("kind", KINDS)
def test_official_checkpoint_that_calls(kind, mine):
    payload = payloads(mine / "canary")[kind]
    inside = repacked(
        torch_file(official()),
        lambda name, content: payload if name.endswith("data.pkl") else content,
    )
    for name, content in {
        "c.pth.tar": payload,
        "d.pth.tar": inside,
        "e.npz": payload,
        "f.npz": zipped([("t_queue.npy", payload)]),
        "g.npz": zipped([("t_queue.npy", npy(describes("(1,)", "'|O'"), payload))]),
    }.items():
        (mine / name).write_bytes(content)
        refused(["import-official", name, "--out", "new"], name, before=tree(mine))


def test_official_arrays(mine):
    good = {name: value.numpy() for name, value in official().items()}
    whole = whole_npy(np.ones((16, 4)))
    for content in (
        zipped([("a.npy", bytes(10**8))], zipfile.ZIP_DEFLATED),
        zipped([("a.npy", npy(describes("(1000000000000,)")))]),
        zipped([("../a.npy", whole)]),
        zipped([("a.txt", b"x")]),
        zipped([(f"{name}.npy", whole_npy(value)) for name, value in good.items()]),
    ):
        (mine / "c.npz").write_bytes(content)
        refused(["import-official", "c.npz", "--out", "new"], "c.npz", before=tree(mine))


# memory

MEMORY = """
import resource, sys
from scdnet.app.cli.main import main
import scdnet.training.official, scdnet.data.prepare, scdnet.training.pretrain, scdnet.evaluation.linear, scdnet.viz.store_page, scdnet.paper.tables
main(["results", "--table", "1"])                                                # what is imported late is there now
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, resource.RLIM_INFINITY))
for line in sys.stdin:
    print("code", main(line.split()), flush=True)
    print("end", file=sys.stderr)
"""


def hungry(place):
    """Small files that would take gigabytes; the words that read each."""
    small = [
        ("x_test.npy", whole_npy(np.ones((1, 1, 75), np.uint8))),
        ("y_test.npy", whole_npy(np.zeros(1, np.uint8))),
    ]
    many = [
        ("x_train.npy", npy(describes("(1500000, 1, 75)", "'|u1'"), bytes(75 * 1_500_000))),
        ("y_train.npy", npy(describes("(1500000,)", "'|u1'"), bytes(1_500_000))),
    ]
    row = npy(describes("(1, 1000000, 150)", "'|u1'"), bytes(150 * 10**6))
    words = '{"label": 1, "skeletons": ["' + "a" * 10**6 + '"' + ', ""' * 10**5 + "]}"
    lines = b"20001\n" + b"0\n" * 20_001
    crowd = folder_set(
        clips_csv=b"file,label\na.npy,0\nb.npy,1\n",
        a_npy=whole_npy(np.ones((1, 64, 3, 2), np.uint8)),
        b_npy=whole_npy(np.ones((2_000_000, 1, 3, 2), np.uint8)),
    )
    sets = {
        "sets": b"\x80\x04" + b"\x8f0" * 3 * 10**6 + b"N.",
        "lists": b"\x80\x02(" + b"]" * 10**7 + b"l.",
        "announced": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"N.",
        "long": b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"N.",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",
    }
    files = {
        "rows/NTU60_CS.npz": zipped(many + small, zipfile.ZIP_DEFLATED),
        "row/NTU60_CS.npz": zipped(
            [("x_train.npy", row), ("y_train.npy", whole_npy(np.zeros(1))), *small],
            zipfile.ZIP_DEFLATED,
        ),
        "words/a01_s01_e00_v01.json": words.encode(),
        f"lines/{RAW}": lines,
        **{f"crowd/{name}": content for name, content in crowd.items()},
        **{f"{name}/a.pkl": content for name, content in sets.items()},
        "brackets/a01_s01_e00_v01.json": b'{"label": 1, "skeletons": ['
        + b"[]," * 2 * 10**6
        + b"[]]}",
        "table/clips.csv": b"file,label" + b",x" * 10**7,
        "table/skeleton.json": json.dumps(LAYOUT).encode(),
        "official.pth.tar": OFFICIAL["stride 0"],
        "wide.pth.tar": OFFICIAL["wide"],
        "npz.npz": zipped([("a.npy", npy(describes("(300000000,)"), bytes(100)))]),
    }
    for name, content in files.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(content)
    for name in ("rows", "row", "words", "lines", "crowd", *sets, "brackets", "table"):
        yield ["prepare", place / name, "--out", place / "out", "--workers", "1"]
    for name in ("official.pth.tar", "wide.pth.tar", "npz.npz"):
        yield ["import-official", place / name, "--out", place / "out"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_memory_is_asked_for_after_the_size_is_known(mine):
    """In a process that may not take a gigabyte more than it has, each is refused in one line all the same."""
    words = [*hungry(mine)]
    for wide in (
        {"config.encoder.width": 16_000},
        {"config.encoder.layers": 90, "config.encoder.width": 4096},
        {"config.encoder.projection": 10**6, "config.queue_size": 10**6, "config.encoder.heads": 3},
    ):
        run = mine / f"run{len(words)}"
        shutil.copytree(mine / "run", run)
        changed(run / "config.json", *wide.items())
        words.append(["embed", "--run", run, "--store", mine / "store", "--out", mine / "x.npz"])
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        input="\n".join(" ".join(map(str, w)) for w in words),
        capture_output=True,
        text=True,
        timeout=300,
    )
    codes = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("code")]
    said = done.stderr.split("end\n")[:-1]
    wrong = [
        (w[1], code, line)
        for w, code, line in zip(words, codes, said, strict=True)
        if code != "2" or len(line.splitlines()) != 1 or not line.startswith("scdnet: ")
    ]
    assert len(codes) == len(words) and not wrong, (wrong, done.stderr[-2000:])


# the code itself

CALLS = {
    ("torch", "load"): "weights_only=True",
    ("np", "load"): "allow_pickle=False",
    ("numpy", "load"): "allow_pickle=False",
}
FORBIDDEN = {"eval", "exec", "compile", "__import__"}
NETWORK = {
    "socket",
    "urllib",
    "requests",
    "http",
    "ftplib",
    "smtplib",
    "aiohttp",
    "httpx",
    "xmlrpc",
    "telnetlib",
    "ssl",
    "asyncio",
    "yaml",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
}


def complaints(source, file):
    """What a module does that no module of ours may do; the one unpickler is `data/readers/pickles.py`'s."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if not node.level
                else []
            )
            found += [
                f"{file}:{node.lineno}: imports {name}"
                for name in names
                if name.split(".")[0] in NETWORK
            ]
            found += [
                f"{file}:{node.lineno}: imports {name}"
                for name in names
                if name.split(".")[0] == "pickle" and file != "data/readers/pickles.py"
            ]
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            owner, _, name = call.rpartition(".")
            keywords = {f"{word.arg}={ast.unparse(word.value)}" for word in node.keywords}
            if (owner, name) in CALLS and CALLS[owner, name] not in keywords:
                found.append(f"{file}:{node.lineno}: {call} without {CALLS[owner, name]}")
            if (not owner and name in FORBIDDEN) or call in (
                "os.system",
                "os.popen",
                "pd.read_pickle",
                "pickle.load",
                "pickle.loads",
                "torch.hub.load",
                "ctypes.cdll.LoadLibrary",
            ):
                found.append(f"{file}:{node.lineno}: calls {call}")
            if "shell=True" in keywords or "allow_pickle=True" in keywords:
                found.append(f"{file}:{node.lineno}: {call} with {sorted(keywords)}")
    return found


def test_no_module_does_what_a_stranger_could_use():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 40
    assert [
        line
        for path in files
        for line in complaints(path.read_text(), path.relative_to(PACKAGE).as_posix())
    ] == []
    unpicklers = [
        path.name for path in files if "Unpickler" in path.read_text() and path.name != "_modidx.py"
    ]
    assert unpicklers == ["pickles.py"]


@case(
    "line",
    [
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p)",
        "np.load(p, allow_pickle=True)",
        "import socket",
        "from urllib.request import urlopen",
        "eval('1')",
        "import pickle",
        "subprocess.run('x', shell=True)",
        "os.system('x')",
        "import yaml",
        "import http.client",
    ],
)
def test_such_a_line_is_found(line):
    assert (
        len(complaints(line, "x.py")) >= 1
        and complaints(
            "torch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\nre.compile('x')\nmodel.eval()",
            "x.py",
        )
        == []
    )


def test_no_network(tmp_path, monkeypatch):
    """A whole way, from raw recordings to clues, in a process that can open no connection."""

    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    (tmp_path / "raw").mkdir()
    for i in range(8):
        (tmp_path / "raw" / f"S001C001P{i + 1:03}R001A00{i % 2 + 1}.skeleton").write_bytes(CLIP)
    words = {
        "prepare": [tmp_path / "raw", "--out", tmp_path / "store", "--workers", "1"],
        "pretrain": [
            "--store",
            tmp_path / "store",
            "--split",
            "xsub",
            "--out",
            tmp_path / "run",
            "--preset",
            "demo",
            *flags(),
            "--batch-size",
            "4",
        ],
        "embed": [
            "--run",
            tmp_path / "run",
            "--store",
            tmp_path / "store",
            "--out",
            tmp_path / "clues.npz",
            "--device",
            "cpu",
        ],
        "inspect": [tmp_path / "store"],
    }
    for command, rest in words.items():
        done = scdnet(command, *rest)
        assert done.returncode == 0, done.stderr

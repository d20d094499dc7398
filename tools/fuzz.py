"""Damaged files for every reader, and odd words for the command line: nothing but success or one line may come of them.

    python tools/fuzz.py READER|cli|all [--count 2000] [--seed 0] [--out data/trust/fuzz.json]

A reader starts from files that the project writes itself. Each input changes one of them; what is not damaged has to be read as before. A row for each reader goes into --out.
tests/test_fuzz.py runs a hundred of each in `make test`.
"""

import argparse
import contextlib
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Literal, get_args, get_origin

import numpy as np

from scdnet.utils.files import InputError

ROOT = Path(__file__).parents[1]
HANG, MEMORY = 5, 10**9  # seconds of processor time, for the machine may be busy; bytes


# how a file is damaged

NUMBERS = [
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1",
    "0",
    "1e30",
    "99999999999999999999",
    "1" + "0" * 400,
    "9" * 5000,
    "0x10",
    "1_0",
    "",
    "٣",
    "1e-400",
    "-0",
    "1.5",
    "true",
    "2147483648",
    "1e6",
]
WORDS = [
    "\x00",
    "\u202e",
    "é",
    "\ufeff",
    "🦴",
    "\x1b[2J",
    "\r",
    "\r\n",
    "\n\n",
    ",",
    '"',
    "'",
    "=1+1",
    "../",
    "/",
    "\\",
    "\t",
    "[",
    "{",
    "]",
    "}",
    ":",
    "null",
    "NaN",
]
ODD = [
    None,
    True,
    -1,
    0,
    1,
    10**30,
    10**400,
    2**63,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\x00",
    "\ud800",
    "\x1b[2J",
    "a" * 1000,
    [],
    {},
    [[]],
    {"a": 1},
    [1] * 100,
    "../../x",
]


def damage(content: bytes, name: str, r: random.Random) -> bytes:
    """A file with one to three changes, of which some know its form."""
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        ways = [flip, cut, delete, repeat, insert, line, line, number, number, word]
        ways += {
            ".json": [leaf, leaf],
            ".pkl": [pickled, pickled, pickled],
            ".npy": [header, header],
            ".npz": [member, member],
            ".zip": [member, member],
            ".tar": [member, member],
            ".safetensors": [safe_header, safe_header],
        }.get(Path(name).suffix, [])
        with contextlib.suppress(SkipChange):
            content = r.choice(ways)(content, r)
    return content


class SkipChange(Exception):
    """The change needs a file that is still of its form."""


def place(content, r):
    """Somewhere, and often near the beginning."""
    return r.randrange(min(len(content), r.choice((16, 200, 10**9))) + 1)


def flip(content, r):
    content = bytearray(content)
    for _ in range(r.choice((1, 1, 2, 8)) if content else 0):
        content[min(place(content, r), len(content) - 1)] = r.randrange(256)
    return bytes(content)


def cut(content, r):
    return content[: r.randrange(len(content) + 1)]


def delete(content, r):
    at = place(content, r)
    return content[:at] + content[at + r.choice((1, 2, 30, 1000)) :]


def repeat(content, r):
    at, length = place(content, r), r.choice((1, 4, 100, 5000))
    return content[:at] + content[at : at + length] * r.choice((2, 3, 20)) + content[at + length :]


def insert(content, r):
    at = place(content, r)
    return (
        content[:at] + bytes(r.randrange(256) for _ in range(r.choice((1, 4, 60)))) + content[at:]
    )


def line(content, r):
    lines = content.split(b"\n")
    at, other = r.randrange(len(lines)), r.randrange(len(lines))
    return b"\n".join(
        r.choice(
            (
                lines[:at] + lines[at + 1 :],
                lines[: at + 1] + lines[at:],
                lines[:at] + [lines[other]] + lines[at + 1 :],
                lines[:at] + [b""] + lines[at:],
                lines[at:] + lines[:at],
            )
        )
    )


def number(content, r):
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", content[: r.choice((300, 10**5))]))
    if not found:
        raise SkipChange
    match = r.choice(found)
    return content[: match.start()] + r.choice(NUMBERS).encode() + content[match.end() :]


def word(content, r):
    at = place(content, r)
    return content[:at] + r.choice(WORDS).encode("utf-8", "surrogatepass") + content[at:]


def odd(tree, r):
    """A tree of lists and dicts in which one place holds something odd."""
    if isinstance(tree, dict) and tree and r.random() < 0.9:
        key = r.choice(list(tree))
        change = r.random()
        rest = {k: v for k, v in tree.items() if k != key}
        return (
            rest
            if change < 0.1
            else rest | {r.choice(ODD[11:16]): tree[key]}
            if change < 0.2
            else tree | {key: odd(tree[key], r)}
        )
    if isinstance(tree, (list, tuple)) and tree and r.random() < 0.9:
        at, items = r.randrange(len(tree)), list(tree)
        change = r.random()
        items = (
            items[:at] + items[at + 1 :]
            if change < 0.1
            else items[: at + 1] + items[at:]
            if change < 0.2
            else items[:at] + [odd(items[at], r)] + items[at + 1 :]
        )
        return type(tree)(items)
    if isinstance(tree, np.ndarray) and r.random() < 0.8:
        changed = tree.copy()
        if tree.size and tree.dtype.kind == "f":
            changed.flat[r.randrange(tree.size)] = r.choice((np.nan, np.inf, -1, 1e30, 0))
        ways = (
            lambda: changed,
            lambda: tree[..., :1],
            lambda: tree[:0],
            lambda: tree.T,
            lambda: tree[0] if tree.ndim and len(tree) else tree,
            lambda: tree.astype("f8"),
            lambda: tree.astype("i2"),
            lambda: tree.astype("S4"),
            lambda: np.asfortranarray(tree),
            lambda: tree.astype(object),
            lambda: np.zeros(tree.shape + (0,)),
            lambda: tree[None],
        )
        with np.errstate(all="ignore"):
            return r.choice(ways)()
    return r.choice(ODD)


def leaf(content, r):
    try:
        return json.dumps(odd(json.loads(content), r)).encode()
    except (ValueError, RecursionError, OverflowError):
        raise SkipChange from None


def pickled(content, r):
    try:
        return pickle.dumps(
            odd(pickle.loads(content), r), r.choice((0, 1, 2, 3, 4, 5))
        )  # ours, not yet damaged: see `Damage`
    except Exception:
        raise SkipChange from None


def header(content, r):
    """Another text in front of an array."""
    if content[:6] != b"\x93NUMPY" or len(content) < 128:
        raise SkipChange
    text = content[10:128].rstrip()
    ways = (
        ("'<f4'", "'<f8'"),
        ("'<f4'", "'|O'"),
        ("'<f4'", "'>f4'"),
        ("'<f4'", "'|V4'"),
        ("False", "True"),
        ("False", "None"),
        ("descr", "x"),
        ("(", "(-"),
        ("(", "(1, "),
        ("(", "[("),
        (")", ",)"),
        ("}", ", 'a': 1}"),
        ("(", "(" + r.choice(NUMBERS)[:60] + ", "),
    )
    old, new = r.choice(ways)
    changed = text.replace(old.encode(), new.encode(), 1) if r.random() < 0.6 else number(text, r)
    return (
        content[:6]
        + bytes((r.choice((1, 1, 1, 1, 2, 3, 9)), 0))
        + min(len(changed) + 1, 65535).to_bytes(2, "little")
        + changed
        + b"\n"
        + content[128:]
    )


def member(content, r):
    """A damaged member, in a zip that is whole; or another name for one."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except Exception:
        raise SkipChange from None
    if not members:
        raise SkipChange
    name = r.choice(list(members))
    body, buffer = members.pop(name), io.BytesIO()
    renamed = r.random() < 0.15
    members[
        r.choice(
            ("../" + name, "/" + name, name + "\n", "é" + name, "x.npy", name.upper(), ".hidden")
        )
        if renamed
        else name
    ] = body if renamed else damage(body, name, r)
    with zipfile.ZipFile(
        buffer, "w", r.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return buffer.getvalue()


def safe_header(content, r):
    """A safetensors file whose header is odd."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise SkipChange
    text = leaf(content[8 : 8 + length], r)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


# what is damaged, and how it is read


@dataclass
class Case:
    """A good folder, and what reads it.

    `files` may be damaged. `read(folder, changed)` returns whether all was read, False where something was skipped; it raises InputError where it is refused, AssertionError where it is wrong.
    """

    folder: Path
    files: list[str]
    read: Callable[[Path, str], bool]


def write(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return list(files)


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def prepared(folder: Path, **options) -> dict:
    """Name -> (frames, label) of what is read, with bad files skipped; under "" whether any was."""
    from scdnet.data.prepare import prepare

    out = folder.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    store = prepare(folder, out, on_error="skip", workers=1, progress=False, **options)
    assert np.isfinite(store.frames).all() and store.persons <= 64 and len(store.classes) <= 10_000
    return {
        name: (np.array(store[i]), int(store.labels[i])) for i, name in enumerate(store.names)
    } | {"": store.meta["source"]["skipped"] > 0}


def recordings(
    folder: Path,
    files: Mapping[str, bytes],
    names: Callable[[str], list[str] | None] = lambda file: None,
    **options,
) -> Case:
    """A data set of recordings; `names(file)` are the clips that a damaged file may change (None: any)."""
    write(folder, files)
    good = prepared(folder, **options)
    assert not good.pop("")

    def read(place, changed):
        found, touched = prepared(place, **options), names(changed)
        skipped = found.pop("")
        for name in () if touched is None else set(good) - set(touched):
            assert name in found, f"{name} is lost though {changed} was damaged"
            persons = good[name][0].shape[1]  # a clip of more makes room for absent ones in all
            np.testing.assert_array_equal(
                found[name][0][:, :persons],
                good[name][0],
                f"{name} has changed though {changed} was damaged",
            )
            assert not found[name][0][:, persons:].any()
            assert found[name][1] == good[name][1] or changed.endswith(
                ("clips.csv", "classes.txt")
            ), f"{name} has another label"
        return not skipped

    return Case(folder, list(files), read)


def short_clips(actions=(1, 3, 50)):
    """Names and the first frames of made-up recordings."""
    from scdnet.data.mannequin.perform import perform

    for i, action in enumerate(actions):
        take = perform(action, seed=i, subject=i + 1)
        yield f"S001C001P{i + 1:03}R001A{action:03}", take


def ntu_files() -> dict[str, bytes]:
    from scdnet.data.mannequin.ntu_files import skeleton_text

    found = {}
    for name, take in short_clips():
        lines, bodies = skeleton_text(take).splitlines(), 0
        frames, at = [], 1
        for _ in range(4):
            bodies = int(lines[at])
            frames += lines[at : at + 1 + bodies * 27]
            at += 1 + bodies * 27
        found[f"{name}.skeleton"] = "\n".join(["4", *frames, ""]).encode()
    return found


def ntu(folder: Path) -> Case:
    return recordings(folder, ntu_files(), lambda file: [Path(file).stem])


def ntu_zip(folder: Path) -> Case:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in ntu_files().items():
            archive.writestr(f"nturgb+d_skeletons/{name}", content)
    case = recordings(folder, {"raw.zip": buffer.getvalue()})
    good = prepared(folder)
    good.pop("")

    def read(place, _):
        with zipfile.ZipFile(
            place / "raw.zip"
        ) as archive:  # a checksum that fits vouches for the content
            same = {Path(i.filename).stem for i in archive.infolist() if i.CRC in crcs}
        found = prepared(place)
        for name in same & found.keys() & good.keys():
            np.testing.assert_array_equal(found[name][0], good[name][0])
        return not found[""]

    with zipfile.ZipFile(folder / "raw.zip") as archive:
        crcs = {i.CRC for i in archive.infolist()}
    return replace(case, read=lambda place, changed: safely(read, place, changed))


def safely(read, place, changed):
    """`read`, and what `zipfile` itself says of a damaged zip is a refusal."""
    try:
        return read(place, changed)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(f"{error}") from error


def nwucla(folder: Path) -> Case:
    rng = np.random.default_rng(0)
    files = {
        f"a{a:02}_s01_e00_v0{v}.json": json.dumps(
            {
                "file_name": "x",
                "skeletons": np.round(rng.normal(size=(3, 20, 3)), 3).tolist(),
                "label": a,
            }
        ).encode()
        for a, v in ((1, 1), (2, 2), (3, 3))
    }
    return recordings(folder, files, lambda file: [Path(file).stem])


def pku(folder: Path) -> Case:
    rng = np.random.default_rng(0)
    files = {}
    for video in ("0002-L", "0002-R", "0295-L"):
        frames = np.round(rng.normal(size=(30, 150)), 4)
        files[f"skeleton/{video}.txt"] = "".join(
            " ".join(map(str, row)) + "\n" for row in frames.tolist()
        ).encode()
        files[f"label/{video}.txt"] = b"1,1,9,2\n7,12,25,1\n"
    files["split.txt"] = b"Training videos:\n0002-L, 0002-R\nValidation videos:\n0295-L\n"
    return recordings(
        folder,
        files,
        lambda file: (
            None if file == "split.txt" else [f"{Path(file).stem}-{row:03}" for row in (1, 2, 3)]
        ),
    )


def pku_split(folder: Path) -> Case:
    case = pku(folder / "raw")
    split = (folder / "raw" / "split.txt").rename(folder / "split.txt")
    assert split.exists()

    def read(place, _):
        return not prepared(place / "raw", split_file=place / "split.txt")[""]

    return Case(folder, ["split.txt"], read) if case else case


def arrays():
    """Five short clips of two people, NTU names, and labels."""
    rng = np.random.default_rng(0)
    names = [f"S001C00{1 + i % 3}P00{1 + i}R001A00{1 + i % 2}" for i in range(5)]
    clips = [rng.normal(size=(4 + i, 2, 25, 3)).astype(np.float32) for i in range(5)]
    return names, clips, [i % 2 for i in range(5)]


def pyskl(folder: Path) -> Case:
    names, clips, labels = arrays()
    annotations = [
        {
            "frame_dir": n,
            "label": label,
            "total_frames": len(c),
            "keypoint": c.transpose(1, 0, 2, 3),
        }
        for n, c, label in zip(names, clips, labels)
    ]
    return recordings(
        folder,
        {
            "ntu60_3danno.pkl": pickle.dumps(
                {
                    "split": {"xsub_train": names[:3], "xsub_val": names[3:]},
                    "annotations": annotations,
                }
            )
        },
    )


def ctrgcn(folder: Path) -> Case:
    _, clips, labels = arrays()
    x = np.stack(
        [np.pad(c, ((0, 10 - len(c)), (0, 0), (0, 0), (0, 0))).reshape(10, 150) for c in clips]
    )
    buffer = io.BytesIO()
    np.savez(
        buffer,
        x_train=x[:3],
        y_train=np.eye(60)[labels[:3]],
        x_test=x[3:],
        y_test=np.eye(60)[labels[3:]],
    )
    return recordings(folder, {"NTU60_CS.npz": buffer.getvalue()})


def agcn(folder: Path) -> Case:
    names, clips, labels = arrays()
    x = np.ascontiguousarray(
        np.stack([np.pad(c, ((0, 10 - len(c)), (0, 0), (0, 0), (0, 0))) for c in clips]).transpose(
            0, 4, 1, 3, 2
        )
    )
    files = {
        f"xsub/{side}_{kind}": content
        for side, at in (("train", slice(0, 3)), ("val", slice(3, 5)))
        for kind, content in (
            ("data_joint.npy", npy(x[at])),
            ("label.pkl", pickle.dumps((names[at], labels[at]))),
            ("num_frame.npy", npy(np.array([len(c) for c in clips[at]]))),
        )
    }
    return recordings(folder, files)


def own_folder(folder: Path) -> Case:
    rng = np.random.default_rng(0)
    layout = {
        "name": "leg",
        "joints": ["hip", "knee", "foot"],
        "bones": [["knee", "hip"], ["foot", "knee"]],
        "pairs": [],
        "center": "hip",
        "limbs": {"leg": ["hip", "knee"]},
    }
    files = {f"{name}.npy": npy(rng.normal(size=(5, 3, 2)).astype("f4")) for name in "abcd"}
    files |= {
        "clips.csv": b"file,label,subject,mine\na.npy,sit,1,train\nb.npy,wave,2,test\nc.npy,sit,2,test\nd.npy,wave,1,train\n",
        "skeleton.json": json.dumps(layout).encode(),
        "classes.txt": b"sit\nwave\n",
    }
    return recordings(
        folder, files, lambda file: [Path(file).stem] if file.endswith(".npy") else None
    )


def tiny_store(path: Path):
    from scdnet.data.layouts import KINECT20
    from scdnet.data.store import SkeletonStore

    rng = np.random.default_rng(0)
    clips = [
        np.cumsum(rng.normal(size=(12 + i % 5, 20, 3)), 0).astype(np.float32) / 5 for i in range(24)
    ]
    names = [f"clip{i:02}" for i in range(24)]
    return SkeletonStore.from_arrays(
        path,
        clips,
        [i % 3 for i in range(24)],
        KINECT20,
        names=names,
        splits={"xsub": (names[:12], names[12:])},
    )


def store(folder: Path) -> Case:
    from scdnet.data.store import SkeletonStore

    good = np.array(tiny_store(folder / "store").frames)

    def read(place, changed):
        from scdnet.data.summary import clip_table, facts

        opened = SkeletonStore.open(place / "store")
        (
            facts(opened),
            clip_table(opened),
            [np.array(clip) for clip in opened],
            repr(opened),
            opened.identity,
        )
        for name in opened.splits:
            train, test = opened.split(name)
            assert len(train) and len(test) and not set(train) & set(test)
        if changed != "store/meta.json":
            sound = SkeletonStore.open(place / "store", check_digest=True)
            np.testing.assert_array_equal(sound.frames, good)
        return True

    return Case(
        folder,
        [f"store/{name}" for name in ("frames.npy", "clips.csv", "meta.json", "meta.json")],
        read,
    )


def tiny_config():
    from scdnet.model.encoder import EncoderConfig
    from scdnet.training.config import PRESETS

    demo = PRESETS["demo"]
    return replace(
        demo,
        epochs=1,
        batch_size=6,
        queue_size=8,
        precision="fp32",
        device="cpu",
        save_every=1,
        view=replace(demo.view, crop_least=8),
        encoder=EncoderConfig(
            frames=16, channels=8, width=8, heads=2, projection=8, projector_norm=True
        ),
    )


def tiny_run(folder: Path):
    from scdnet.training.pretrain import pretrain

    opened = tiny_store(folder / "store")
    pretrain(opened, "xsub", tiny_config(), folder / "run", preset="demo", progress=False)
    return opened


def run(folder: Path) -> Case:
    import torch

    from scdnet.app.cli.main import main
    from scdnet.training.run import load_encoder, run_config
    from scdnet.paper.tables import about_run, find_results

    tiny_run(folder)
    with contextlib.redirect_stdout(io.StringIO()):
        assert (
            main(
                [
                    "evaluate",
                    "knn",
                    "--run",
                    str(folder / "run"),
                    "--store",
                    str(folder / "store"),
                    "--split",
                    "xsub",
                ]
            )
            == 0
        )

    def read(place, _):
        encoder = load_encoder(place / "run")
        with torch.no_grad():
            encoder(
                torch.zeros(
                    1,
                    encoder.coords,
                    encoder.config.frames,
                    encoder.skeleton.num_joints,
                    encoder.persons,
                )
            )
        run_config(place / "run"), about_run(place / "run"), list(find_results(place / "run"))
        return True

    return Case(
        folder,
        [
            f"run/{name}"
            for name in (
                "config.json",
                "config.json",
                "encoder.safetensors",
                "metrics.jsonl",
                "eval/knn-xsub.json",
            )
        ],
        read,
    )


def checkpoint(folder: Path) -> Case:
    from scdnet.utils.files import digest
    from scdnet.training.checkpoint import _digest
    from scdnet.training.pretrain import Trainer

    opened = tiny_run(folder)
    state = Trainer(tiny_config(), opened, opened.split("xsub")[0])
    (last,) = (folder / "run" / "checkpoint").iterdir()
    names, r = ("model.safetensors", "optimizer.safetensors"), random.Random(0)

    def read(place, _):
        copy = place / last.relative_to(folder)
        with contextlib.suppress(
            Exception
        ):  # half of the damage is sealed, as by one who means harm
            numbers = json.loads((copy / "state.json").read_text())
            if r.random() < 0.5 and isinstance(numbers.pop("digests", None), dict):
                seals = {name: digest(copy / name) for name in names} | {
                    "numbers": _digest(numbers)
                }
                (copy / "state.json").write_text(json.dumps(numbers | {"digests": seals}))
        with contextlib.redirect_stderr(io.StringIO()):
            return state.load(copy.parent)

    return Case(
        folder, [str((last / name).relative_to(folder)) for name in ("state.json", *names)], read
    )


def official(folder: Path) -> Case:
    import torch

    from scdnet.model.encoder import Encoder, EncoderConfig
    from scdnet.training.moco import MomentumContrast
    from scdnet.training.official import import_official, read_checkpoint
    from scdnet.data.layouts import KINECT20

    torch.manual_seed(0)
    model = MomentumContrast(
        Encoder(
            EncoderConfig(frames=16, channels=8, width=16, heads=2, projection=4),
            KINECT20,
            persons=1,
        ),
        queue_size=8,
    ).eval()
    space: dict = {}
    for cell in json.loads((ROOT / "nbs/33_official.ipynb").read_text())["cells"]:
        if (source := "".join(cell["source"])).startswith(
            ("def space_to_official", "def time_to_official", "def to_official")
        ):
            exec(source, space)  # the notebook takes a model apart
    old = {name: value.detach().contiguous() for name, value in space["to_official"](model).items()}
    buffer, arrays_of = (
        io.BytesIO(),
        {f"state_dict/{name}": value.numpy() for name, value in old.items()},
    )
    torch.save({"state_dict": old, "epoch": 450}, buffer)
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays_of)
    write(folder, {"c.pth.tar": buffer.getvalue(), "c.npz": packed.getvalue()})

    def read(place, changed):
        import_official(read_checkpoint(place / changed), KINECT20, heads=2)
        return True

    assert read(folder, "c.pth.tar") and read(folder, "c.npz")
    return Case(folder, ["c.pth.tar", "c.npz"], read)


READERS: dict[str, Callable[[Path], Case]] = {
    f.__name__.replace("_", "-"): f
    for f in (
        ntu,
        ntu_zip,
        nwucla,
        pku,
        pku_split,
        pyskl,
        ctrgcn,
        agcn,
        own_folder,
        store,
        run,
        checkpoint,
        official,
    )
}


# words for the command line

INTS = [
    "-1",
    "0",
    "1",
    "2",
    "3",
    "4",
    "8",
    "1000000000000",
    "9" * 30,
    "9" * 5000,
    "one",
    "1.5",
    "nan",
    "",
    "--",
    "1e3",
    "٣",
]
FLOATS = [
    "-1",
    "0",
    "0.1",
    "0.5",
    "1",
    "2",
    "1e-9",
    "1e9",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "x",
    "",
    "1,5",
    "9" * 400,
]
NAMES = [
    "store",
    "run",
    "raw",
    "nowhere",
    "",
    ".",
    "..",
    "/",
    "/dev/null",
    "\udcff",
    "x" * 5000,
    "a\nb",
    "-",
    "--",
    "store/meta.json",
    "run/config.json",
    "é 🦴",
    "new",
    "official.npz",
    "http://example.org/x",
    "~",
]
TEXTS = [
    "xsub",
    "xview",
    "",
    "x" * 1000,
    "\udcff",
    "é",
    "a\nb",
    "cpu",
    "auto",
    "cuda",
    "meta",
    "cpu:7",
    "mps",
    "toaster",
    "0",
    "../x",
    "--help",
]
SLOW = (
    "epochs",
    "draws",
    "repeats",
    "workers",
    "gcn-layers",
    "layers",
)  # of these no large number: it would only take its time


def words_of(kind, long: str, draw, st):
    """Words for one option of a type, good or odd."""
    choices = list(get_args(kind)) if get_origin(kind) is Literal else None
    if choices:
        return [str(draw(st.sampled_from([*choices, *choices, "nonsense", ""])))]
    if get_origin(kind) is tuple or str(kind).startswith("tuple"):
        return [
            w
            for _ in range(draw(st.integers(0, 3)))
            for w in words_of(get_args(kind)[0], long, draw, st)
        ]
    text = str(kind)
    if "int" in text:
        return [
            draw(
                st.sampled_from([w for w in INTS if long.split(".")[-1] not in SLOW or len(w) < 4])
            )
        ]
    if "float" in text:
        return [draw(st.sampled_from(FLOATS))]
    return [draw(st.sampled_from(NAMES if "Path" in text else TEXTS))]


def options_of(command) -> dict[str, object]:
    """Long name -> type of every option, the configuration's under their dotted names."""
    from scdnet.app.cli.train import Ablate, Pretrain
    from scdnet.training.config import PretrainConfig

    def below(kind, at=""):
        for option in fields(kind):
            name = at + {"run_folder": "run"}.get(option.name, option.name).replace("_", "-")
            if is_dataclass(option.type):
                yield from below(option.type, f"{name}.")
            elif option.name not in ("sources", "folders", "table", "checkpoint") and not (
                option.name == "store" and command.__name__ == "Inspect"
            ):
                yield name, option.type

    found = dict(below(command))
    return found | dict(below(PretrainConfig)) if command in (Pretrain, Ablate) else found


def command_line(draw, st) -> list[str]:
    """A command with what it needs, and up to five options that are changed."""
    from scdnet.app.cli.evaluate import PROTOCOLS
    from scdnet.app.cli.main import COMMANDS

    tiny = (
        "--preset demo --epochs 1 --batch-size 6 --queue-size 8 --precision fp32 --device cpu --encoder.frames 16 --encoder.channels 8 --encoder.width 8 --encoder.heads 2 "
        "--encoder.projection 8 --view.crop-least 8"
    ).split()
    given = {
        "demo": "--out new",
        "synthesize": "--out new --workers 1",
        "prepare": "raw --out new --workers 1",
        "inspect": "store",
        "results": "",
        "bench": "",
        "pretrain": ["--store", "store", "--split", "xsub", "--out", "new", *tiny],
        "ablate": ["table5", "--store", "store", "--split", "xsub", "--out", "new", *tiny],
        "embed": "--run run --store store --out new.npz --device cpu",
        "import-official": "official.npz --out new --skeleton kinect20 --heads 2",
        "figures": "--run run --store store --out new",
    }
    name = draw(
        st.sampled_from(
            [*given, "evaluate", "evaluate", "evaluate", "pretrain", "prepare", "prepare"]
        )
    )
    if name == "evaluate":
        protocol = draw(st.sampled_from([*PROTOCOLS]))
        short = ["--epochs", "1"] * (protocol != "knn") + ["--draws", "1", "--fraction", "0.5"] * (
            protocol == "semi"
        )
        words, command = (
            [
                "evaluate",
                protocol,
                *"--run run --store store --split xsub --device cpu --out new.json --no-baselines".split(),
                *short,
            ],
            PROTOCOLS[protocol],
        )
    else:
        words, command = (
            [name, *(given[name].split() if isinstance(given[name], str) else given[name])],
            COMMANDS[name],
        )
    options = options_of(command)
    for long in draw(st.lists(st.sampled_from([*options, "colour"]), min_size=0, max_size=5)):
        kind = options.get(long, str)
        if kind is bool:
            words += (
                [f"--{draw(st.sampled_from(['', 'no-']))}{long}"]
                if "." not in long
                else [
                    f"--{long}"
                    if draw(st.booleans())
                    else "--" + re.sub(r"([^.]+)$", r"no-\1", long)
                ]
            )
        else:
            words += [f"--{long}", *words_of(kind, long, draw, st)]
    for _ in range(draw(st.sampled_from((0, 0, 0, 0, 1, 2)))):  # words lost or out of place
        at = draw(st.integers(0, len(words) - 1)) if words else 0
        words = draw(
            st.sampled_from(
                (
                    words[:at] + words[at + 1 :],
                    words[: at + 1] + words[at:],
                    words[:at] + [draw(st.sampled_from(NAMES + TEXTS + INTS))] + words[at:],
                )
            )
        )
    return words


ENOUGH = "its words were taken, and there is enough of this"


def first_only(function, times: int):
    """A function that does its work so many times; then its caller stops in good order."""
    calls = iter(range(times))

    def call(*given, **options):
        if next(calls, None) is None:
            raise InputError(ENOUGH)
        return function(*given, **options)

    return call


def command_case(
    folder: Path, change: Callable[[object, str, object], None] = setattr, times: int = 30
) -> None:
    """A folder to work in. Of demo, bench, ablate and figures only the words are read; an encoder is trained or asked `times` times at most. `change` is `setattr`, or one that is undone."""
    import scdnet.app.cli.main as cli
    import scdnet.evaluation.finetune as finetune
    import scdnet.evaluation.baselines as judge
    import scdnet.evaluation.linear as linear
    import scdnet.training.pretrain as pretrain
    import scdnet.data.mannequin.perform as synthetic
    import scdnet.data.mannequin.pku_files as synthetic_pku

    official(folder / "o")
    run(folder)
    write(folder / "raw", ntu_files())
    (folder / "o" / "c.npz").rename(folder / "official.npz")
    shutil.rmtree(folder / "o")
    for command in (cli.Demo, cli.Bench, cli.Ablate, cli.Figures):
        change(command, "run", lambda self: None)
    few = synthetic.MannequinConfig(actions=(5,), subjects=(1,))
    change(
        synthetic.synthesize,
        "__defaults__",
        tuple(
            few if isinstance(d, synthetic.MannequinConfig) else d
            for d in synthetic.synthesize.__defaults__
        ),
    )
    change(
        synthetic_pku.synthesize_pku,
        "__defaults__",
        tuple(1 if d == 12 else d for d in synthetic_pku.synthesize_pku.__defaults__),
    )
    for words in (
        "pretrain --store store --split xsub --out new --preset demo --epochs 0",
        "evaluate linear --run run --store store --split xsub --out new.json --epochs 1",
        "inspect store",
        "results",
    ):
        with contextlib.suppress(InputError):
            obey(folder, words.split())  # what is imported late is there now
    for module, name in (
        (pretrain, "_run_epoch"),
        (finetune, "fit"),
        (judge, "all_features"),
        (linear, "features"),
    ):
        change(module, name, first_only(getattr(module, name), times))


def obey(folder: Path, words: list[str]) -> bool:
    """Run a command line; True where it went well, InputError where it was refused, AssertionError for anything else."""
    from scdnet.app.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    before = set(folder.iterdir())
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(words))
    for path in set(folder.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    said = err.getvalue()
    assert "Traceback" not in said, said[-1500:]
    assert code in (0, 1, 2), code
    assert code != 1 or (said.startswith("scdnet: ") and len(said.splitlines()) == 1), said[-500:]
    if code and ENOUGH not in said:
        raise InputError(said[:200] or "no word")
    return True


# counting


@dataclass
class Tally:
    inputs: int = 0
    refused: int = 0
    read: int = 0
    slowest: float = 0.0
    wrong: list = field(default_factory=list)

    def count(self, what: str, call: Callable[[], bool]) -> None:
        start = time.process_time()
        try:
            with limit(300):
                read = bool(call())
            self.read, self.refused = self.read + read, self.refused + (not read)
        except InputError:
            self.refused += 1
        except Exception as error:
            self.note(what, error)
        took = time.process_time() - start
        self.inputs, self.slowest = self.inputs + 1, max(self.slowest, took)
        if took > HANG:
            self.note(what, TimeoutError(f"{took:.1f} s"))

    def note(self, what: str, error: BaseException) -> None:
        self.wrong.append((what, "".join(traceback.format_exception(error))))


@contextlib.contextmanager
def limit(seconds: int):
    """TimeoutError in the body after so many seconds."""

    def stop(*_):
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def one(case: Case, seed: int, name: str) -> Callable[[], bool]:
    """Damage a copy, one file of it, and read that."""
    r = random.Random(f"{name} {seed}")
    file = r.choice(case.files)
    content = damage((case.folder / file).read_bytes(), file, r)
    copy = case.folder.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(case.folder, copy)
    (copy / file).write_bytes(content)
    return lambda: case.read(copy, file)


def fuzz(name: str, count: int, seed: int) -> Tally:
    """`count` inputs for a reader or for the command line."""
    tally = Tally()
    scratch = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        folder = Path(place) / "good"
        folder.mkdir()
        if name == "cli":
            fuzz_words(folder, count, seed, tally)
        else:
            case = READERS[name](folder)
            for i in range(count):
                tally.count(f"{name} {seed + i}", one(case, seed + i, name))
    return tally


def fuzz_words(folder: Path, count: int, seed: int, tally: Tally) -> None:
    import hypothesis
    from hypothesis import strategies as st

    command_case(folder)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(st.data())
    def many(data):
        words = command_line(data.draw, st)
        tally.count(repr(words), lambda: obey(folder, words))

    many()


def row(name: str, tally: Tally, seed: int, command: str) -> dict:
    from scdnet.utils.machine import machine

    facts = machine()
    return {
        "inputs": tally.inputs,
        "refused": tally.refused,
        "read": tally.read,
        "wrong": len(tally.wrong),
        "slowest_seconds": round(tally.slowest, 2),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
        "seed": seed,
        "command": command,
        "date": facts["date"],
        "machine": f"{facts['processor']}, {facts['cores']} cores, Python {facts['python']}, PyTorch {facts['torch']}, NumPy {facts['numpy']}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reader", choices=[*READERS, "cli", "all"])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file; the row of the reader is written anew")
    given = parser.parse_args()
    if given.reader == "all":
        rest = [
            "--count",
            str(given.count),
            "--seed",
            str(given.seed),
            *(["--out", str(given.out)] if given.out else []),
        ]
        return max(
            subprocess.run([sys.executable, __file__, name, *rest]).returncode
            for name in [*READERS, "cli"]
        )
    os.environ["TQDM_DELAY"] = "600"
    tally = fuzz(given.reader, given.count, given.seed)
    for what, error in tally.wrong[:20]:
        print(f"--- {what[:600]}\n{error[-1800:]}", file=sys.stderr)
    found = row(
        given.reader,
        tally,
        given.seed,
        f"python tools/fuzz.py {given.reader} --count {given.count} --seed {given.seed}",
    )
    print(
        given.reader,
        json.dumps(
            {
                key: value
                for key, value in found.items()
                if key not in ("machine", "command", "date")
            }
        ),
    )
    if given.out:
        from scdnet.utils.files import read_json, write_json

        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            given.out, (read_json(given.out) if given.out.exists() else {}) | {given.reader: found}
        )
    return 1 if tally.wrong or found["peak_memory_mb"] > MEMORY / 10**6 else 0


if __name__ == "__main__":
    sys.exit(main())

"""Damaged files for every reader, and odd words for the command line: success or one line, in bounded time and memory; what is not damaged is read as before.

SCDNET_FUZZ=2000 tries harder. What was found by thinking stands in test_attacks.py.
"""

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
import zipfile
from pathlib import Path

import numpy as np
import pytest
from commands import assert_mistake, scdnet
from hypothesis import HealthCheck, given, settings, strategies as st
from small import TINY, random_walks, to_official

from scdnet.data import prepare as preparing
from scdnet.data.mannequin.ntu_files import skeleton_text
from scdnet.data.mannequin.perform import perform
from scdnet.data.store import SkeletonStore
from scdnet.training.pretrain import pretrain
from scdnet.utils.files import InputError

COUNT = int(os.environ.get("SCDNET_FUZZ", "60"))
many = settings(
    max_examples=COUNT,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
chance = st.randoms(use_true_random=True)


# how a file is damaged: each way takes its content and a generator

NUMBERS = (
    "nan inf -inf 1e400 -1 0 1e30 99999999999999999999 0x10 1_0 ٣ 1e-400 -0 1.5 true 1e6".split()
)
NUMBERS += ["", "1" + "0" * 400, "9" * 5000]
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
    "\t",
    "../",
    "null",
]
WORDS += list(",\"'/\\[{]}:")
ODD = [None, True, -1, 0, 1, 10**30, 10**400, 2**63, 1.5, float("nan"), float("inf"), "", "x"]
ODD += ["\x00", "\ud800", "\x1b[2J", "a" * 1000, [], {}, [[]], {"a": 1}, [1] * 100, "../../x"]


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


def repeat(content, r):
    """A stretch comes several times, or not at all."""
    at, length = place(content, r), r.choice((1, 4, 100, 5000))
    return content[:at] + content[at : at + length] * r.choice((0, 2, 20)) + content[at + length :]


def insert(content, r):
    at = place(content, r)
    word = r.choice((r.randbytes(4), r.randbytes(60), r.choice(WORDS).encode()))
    return content[:at] + word + content[at:]


def line(content, r):
    lines = content.split(b"\n")
    at, other = r.randrange(len(lines)), r.randrange(len(lines))
    lines[at : at + 1] = r.choice(([], [lines[at]] * 2, [lines[other]], [b"", lines[at]]))
    return b"\n".join(lines)


def number(content, r):
    found = [*re.finditer(rb"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", content[: r.choice((300, 10**5))])]
    match = r.choice(found)
    return content[: match.start()] + r.choice(NUMBERS).encode() + content[match.end() :]


def odd(tree, r):
    """A tree of lists, dicts and arrays in which one place holds something odd."""
    if isinstance(tree, np.ndarray) and r.random() < 0.8:
        spoilt = tree.astype("f8", copy=True)
        if tree.size:
            spoilt.flat[r.randrange(tree.size)] = r.choice((np.nan, np.inf, -1, 1e30))
        kinds = [tree.astype(kind) for kind in ("i2", "S4", object)]
        shapes = [tree[..., :1], tree[:0], tree.T, tree[None], np.asfortranarray(tree)]
        return r.choice([spoilt, *kinds, *shapes, np.zeros((*tree.shape, 0))])
    if not isinstance(tree, (dict, list, tuple)) or not tree or r.random() < 0.1:
        return r.choice(ODD)
    pairs = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree))
    at = r.randrange(len(pairs))
    key, value = pairs[at]
    pairs[at : at + 1] = r.choice(([], [(key, value)] * 2, *[[(key, odd(value, r))]] * 6))
    return dict(pairs) if isinstance(tree, dict) else type(tree)([value for _, value in pairs])


def leaf(content, r):
    return json.dumps(odd(json.loads(content), r)).encode()


def pickled(content, r):
    return pickle.dumps(odd(pickle.loads(content), r), r.randrange(6))  # ours, not yet damaged


def header(content, r):
    """Another text in front of an array."""
    text, ways = (
        content[10:128].rstrip(),
        "<f4 <f8|<f4 |O|<f4 >f4|<f4 |V4|False True|descr x|( (-|( (1,|( [(",
    )
    old, new = r.choice([way.partition(" ")[::2] for way in ways.split("|") if " " in way])
    text = text.replace(old.encode(), new.encode(), 1) if r.random() < 0.6 else number(text, r)
    version, size = bytes((r.choice((1, 1, 1, 2, 3, 9)), 0)), len(text[:65000]) + 1
    return content[:6] + version + size.to_bytes(2, "little") + text + b"\n" + content[128:]


def member(content, r):
    """A damaged member in a zip that is whole, or another name for one."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = r.choice(list(members))
    body = members.pop(name)
    if r.random() < 0.15:
        name = r.choice(("../" + name, "/" + name, "é" + name, "x.npy", name.upper(), ".hidden"))
    else:
        body = damage(body, name, r)
    buffer, how = io.BytesIO(), r.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for other, content in (members | {name: body}).items():
            archive.writestr(other, content)
    return buffer.getvalue()


def safe_header(content, r):
    """A safetensors file whose header is odd."""
    length = int.from_bytes(content[:8], "little")
    text = leaf(content[8 : 8 + length], r)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


ANY = [flip, flip, cut, repeat, insert, line, number, number]
WAYS = {".json": [leaf] * 3, ".pkl": [pickled] * 4, ".npy": [header] * 3, ".npz": [member] * 3}
WAYS |= {".zip": [member] * 3, ".tar": [member] * 3, ".safetensors": [safe_header] * 3}


def damage(content, name, r):
    """A file with one to three changes, of which some know its form; those fail where it has been lost already."""
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        with contextlib.suppress(Exception), np.errstate(all="ignore"):
            content = r.choice(ANY + WAYS.get(Path(name).suffix, []))(content, r)
    return content


# good files, and what reads them


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def ntu():
    found = {}
    for i, action in enumerate((1, 3, 50)):
        lines = skeleton_text(perform(action, seed=i, subject=i + 1)).splitlines()
        frames, at = [], 1
        for _ in range(4):
            stop = at + 1 + int(lines[at]) * 27
            frames, at = frames + lines[at:stop], stop
        text = "\n".join(["4", *frames, ""])
        found[f"S001C001P{i + 1:03}R001A{action:03}.skeleton"] = text.encode()
    return found


def ntu_zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in ntu().items():
            archive.writestr(f"nturgb+d_skeletons/{name}", content)
    return {"raw.zip": buffer.getvalue()}


def nwucla():
    rng, found = np.random.default_rng(0), {}
    for action, view in ((1, 1), (2, 2), (3, 3)):
        points = np.round(rng.normal(size=(3, 20, 3)), 3).tolist()
        content = {"file_name": "x", "skeletons": points, "label": action}
        found[f"a{action:02}_s01_e00_v0{view}.json"] = json.dumps(content).encode()
    return found


def pku():
    rng, found = np.random.default_rng(0), {}
    for video in ("0002-L", "0002-R", "0295-L"):
        frames = np.round(rng.normal(size=(30, 150)), 4).tolist()
        text = "".join(" ".join(map(str, row)) + "\n" for row in frames)
        found |= {
            f"skeleton/{video}.txt": text.encode(),
            f"label/{video}.txt": b"1,1,9,2\n7,12,25,1\n",
        }
    return found | {"split.txt": b"Training:\n0002-L, 0002-R\nValidation:\n0295-L\n"}


def arrays():
    """Names, labels and five short clips of two people."""
    rng = np.random.default_rng(0)
    names = [f"S001C00{1 + i % 3}P00{1 + i}R001A00{1 + i % 2}" for i in range(5)]
    return names, [i % 2 for i in range(5)], rng.normal(size=(5, 8, 2, 25, 3)).astype(np.float32)


def pyskl():
    names, labels, clips = arrays()
    annotations = [
        {"frame_dir": n, "label": y, "total_frames": len(c), "keypoint": c.transpose(1, 0, 2, 3)}
        for n, y, c in zip(names, labels, clips, strict=True)
    ]
    split = {"xsub_train": names[:3], "xsub_val": names[3:]}
    return {"a.pkl": pickle.dumps({"split": split, "annotations": annotations})}


def ctrgcn():
    _, labels, clips = arrays()
    x, y = clips.reshape(5, 8, 150), np.eye(60)[labels]
    return {"NTU60_CS.npz": npz(x_train=x[:3], y_train=y[:3], x_test=x[3:], y_test=y[3:])}


def agcn():
    names, labels, clips = arrays()
    x, found = np.ascontiguousarray(clips.transpose(0, 4, 1, 3, 2)), {}
    for side, at in (("train", slice(0, 3)), ("val", slice(3, 5))):
        found[f"xsub/{side}_data_joint.npy"] = npy(x[at])
        found[f"xsub/{side}_label.pkl"] = pickle.dumps((names[at], labels[at]))
        found[f"xsub/{side}_num_frame.npy"] = npy(np.full(len(names[at]), 8))
    return found


def own_folder():
    rng, joints = np.random.default_rng(0), ["hip", "knee", "foot"]
    layout = {"name": "leg", "joints": joints, "bones": [["knee", "hip"], ["foot", "knee"]]}
    layout |= {"pairs": [], "center": "hip", "limbs": {"leg": ["hip", "knee"]}}
    table = b"file,label,subject,mine\na.npy,sit,1,train\nb.npy,wave,2,test\nc.npy,sit,2,test\n"
    clips = {f"{name}.npy": npy(rng.normal(size=(5, 3, 2)).astype("f4")) for name in "abc"}
    texts = {"skeleton.json": json.dumps(layout).encode(), "classes.txt": b"sit\nwave\n"}
    return clips | texts | {"clips.csv": table}


RECORDINGS = {f.__name__: f for f in (ntu, ntu_zip, nwucla, pku, pyskl, ctrgcn, agcn, own_folder)}
ALONE = {"ntu", "nwucla", "pku"}  # damage to one file leaves the clips of the others as they are


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def prepared(folder, out, **options):
    """Name -> (frames, label) of what is read, with bad files skipped; and how many were."""
    shutil.rmtree(out, ignore_errors=True)
    given = {"on_error": "skip", "workers": 1, "progress": False} | options
    store = preparing.prepare(folder, out, **given)
    assert np.isfinite(store.frames).all() and store.persons <= 64 and len(store.classes) <= 10_000
    clips = {n: (np.array(store[i]), int(store.labels[i])) for i, n in enumerate(store.names)}
    return clips, store.meta["source"]["skipped"]


@contextlib.contextmanager
def limit(seconds=60, megabytes=600):
    """TimeoutError in the body after so many seconds; AssertionError if the process has grown by more."""

    def stop(*_):
        raise TimeoutError(f"more than {seconds} s")

    before, size = signal.signal(signal.SIGALRM, stop), resource.getrusage(resource.RUSAGE_SELF)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size.ru_maxrss
    assert grown < 1000 * megabytes


def attempt(good, files, read, r):
    """Damage one of the files in a copy and read that; False where it is refused. Anything else is raised."""
    copy, file = good.parent / "copy", r.choice(files)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(good, copy)
    (copy / file).write_bytes(damage((good / file).read_bytes(), file, r))
    with limit():
        try:
            return bool(read(copy, file))
        except InputError as error:
            assert str(error).isprintable() and 5 < len(str(error)) <= 2000
            return False


def check(good, files, read):
    assert all(read(good, file) for file in files)  # undamaged
    outcomes = []

    @many
    @given(r=chance)
    def tried(r):
        outcomes.append(attempt(good, files, read, r))

    tried()
    assert outcomes.count(False) > len(outcomes) / 10  # the damage is felt


def reader(name, home):
    """A good data set, its files, and what reads it and compares the clips whose files are not damaged."""
    good = write(home / "good", files := RECORDINGS[name]())
    whole, _ = prepared(good, home / "out")

    def read(folder, changed):
        options = {"split_file": folder / "split.txt"} if changed == "split.txt" else {}
        found, skipped = prepared(folder, home / "out", **options)
        for clip, (frames, label) in whole.items() if name in ALONE else ():
            if Path(changed).stem not in (clip, clip.rpartition("-")[0], "split"):
                assert clip in found, f"{clip} is lost though {changed} was damaged"
                persons = frames.shape[1]  # a clip of more makes room for absent ones in all
                np.testing.assert_array_equal(found[clip][0][:, :persons], frames)
                assert found[clip][1] == label and not found[clip][0][:, persons:].any()
        return not skipped

    return good, list(files), read


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings(name, tmp_path):
    check(*reader(name, tmp_path))


def test_a_careless_reader_is_found(tmp_path, monkeypatch):
    """The net holds: a reader that takes any number for a coordinate, and one that loses a good clip."""
    good, files, read = reader("nwucla", tmp_path)

    def careless(skeletons, where):
        return np.array(skeletons, "f4")

    monkeypatch.setattr("scdnet.data.readers.nwucla._frames", careless)
    with pytest.raises(Exception) as caught:
        for seed in range(400):
            attempt(good, files, read, random.Random(seed))
    assert not isinstance(caught.value, InputError)
    monkeypatch.undo()
    ordered = preparing._ordered
    monkeypatch.setattr(preparing, "_ordered", lambda tasks: (ordered(tasks)[0][:-1], []))
    with pytest.raises(AssertionError, match="is lost"):
        for seed in range(20):
            attempt(good, files, read, random.Random(seed))


# stores, runs, checkpoints


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A store, a run on it with a result, and recordings."""
    place = tmp_path_factory.mktemp("home") / "good"
    store = random_walks(place / "store", xsub=(slice(0, 16), slice(16, 32)))
    pretrain(store, "xsub", TINY, place / "run", preset="demo", progress=False)
    (place / "run/eval").mkdir(exist_ok=True)
    words = ["--run", place / "run", "--store", place / "store", "--split", "xsub"]
    assert scdnet("evaluate", "knn", *words).returncode == 0
    write(place / "raw", ntu())
    return place


def test_store(home):
    frames = np.array(SkeletonStore.open(home / "store").frames)

    def read(folder, changed):
        opened = SkeletonStore.open(folder / "store")
        repr(opened), [np.array(clip) for clip in opened]
        for name in opened.splits:
            train, test = opened.split(name)
            assert len(train) and len(test) and not set(train) & set(test)
        if changed != "store/meta.json":
            sound = SkeletonStore.open(folder / "store", check_digest=True)
            np.testing.assert_array_equal(sound.frames, frames)
        return True

    check(home, [f"store/{name}" for name in ("frames.npy", "clips.csv", "meta.json")], read)


def test_run(home):
    from scdnet.training.run import Run

    def read(folder, _):
        run = Run.open(folder / "run")
        run.encoder(), run.metrics(), run.results()
        return True

    (result,) = (home / "run/eval").glob("knn*.json")
    names = ("config.json", "encoder.safetensors", "metrics.jsonl", f"eval/{result.name}")
    check(home, [f"run/{name}" for name in names], read)


def test_checkpoint(home):
    """Half of the damage is sealed with digests that fit, as somebody who means harm would do it."""
    from scdnet.training.checkpoint import Checkpoints, _digests
    from scdnet.training.pretrain import Trainer

    store, r = SkeletonStore.open(home / "store"), random.Random(0)
    state = Trainer(TINY, store, store.split("xsub")[0])
    (last,) = (path.relative_to(home) for path in (home / "run/checkpoint").iterdir())
    names = ("model.safetensors", "optimizer.safetensors")

    def read(folder, _):
        at = folder / last / "state.json"
        with contextlib.suppress(Exception):
            numbers = json.loads(at.read_text())
            if r.random() < 0.5 and folder != home and isinstance(numbers.pop("digests"), dict):
                seals = _digests(folder / last, numbers)
                at.write_text(json.dumps(numbers | {"digests": seals}))
        with contextlib.redirect_stderr(io.StringIO()):
            return Checkpoints(folder / last.parent).load(state)

    check(home, [str(last / name) for name in ("state.json", *names)], read)


def test_official(tmp_path):
    """A checkpoint with the names of the published code."""
    import torch

    from scdnet.data.layouts import KINECT20
    from scdnet.model.encoder import EncoderConfig, scd_encoder
    from scdnet.training.moco import MomentumContrast
    from scdnet.training.official import import_official, read_checkpoint

    small = EncoderConfig(frames=16, channels=8, width=16, heads=2, projection=4)
    encoder = scd_encoder(small, KINECT20, persons=1)
    old = to_official(MomentumContrast(encoder, queue_size=8, projection=4).state_dict())
    buffer = io.BytesIO()
    torch.save({"state_dict": old, "epoch": 450}, buffer)
    values = {f"state_dict/{name}": value.numpy() for name, value in old.items()}
    good = write(tmp_path / "good", {"c.pth.tar": buffer.getvalue(), "c.npz": npz(**values)})

    def read(folder, changed):
        import_official(read_checkpoint(folder / changed), KINECT20, heads=2)
        return True

    check(good, ["c.pth.tar", "c.npz"], read)


# words for the command line

BASES = {
    "prepare": "raw --out new --workers 1",
    "inspect": "store",
    "results": "",
    "pretrain": "--store store --split xsub --out new --preset demo --device cpu",
    "embed": "--run run --store store --out new.npz --device cpu",
    "import-official": "nowhere.npz --out new",
    "evaluate knn": "--run run --store store --split xsub --device cpu --out new.json",
    "evaluate linear": "--run run --store store --split xsub --device cpu --out new.json --epochs 1",
}
VALUES = [
    "-1",
    "0",
    "1",
    "3",
    "0.5",
    "1e400",
    "nan",
    "inf",
    "9" * 400,
    "one",
    "",
    "--",
    "٣",
    "xsub",
]
VALUES += [
    "store",
    "run",
    "raw",
    "nowhere",
    ".",
    "/",
    "/dev/null",
    "\udcff",
    "x" * 5000,
    "a\nb",
    "-",
]
VALUES += [
    "é 🦴",
    "http://example.org/x",
    "~",
    "cuda",
    "cpu:7",
    "toaster",
    "../x",
    "--help",
    "true",
]


def test_command_line(home, monkeypatch):
    """Options as each command's own help lists them, with any values. A run that could begin is enough of training."""

    def enough(*_, **__):
        raise InputError("the words were taken, and there is enough of this")

    monkeypatch.setattr("scdnet.training.pretrain.pretrain", enough)
    codes = []
    options = {
        command: sorted(
            {*re.findall(r"--[a-z][a-z0-9.-]+", scdnet(*command.split(), "--help").stdout)}
        )
        for command in BASES
    }
    assert all(len(found) > 2 for found in options.values())

    @many
    @given(r=chance)
    def tried(r):
        command = r.choice(list(BASES))
        words = [*command.split(), *BASES[command].split()]
        for _ in range(r.randrange(4)):
            words += [
                r.choice([*options[command], "--colour"]),
                *r.choices(VALUES, k=r.choice((0, 1, 1, 1, 2))),
            ]
        if r.random() < 0.3:  # a word is lost or out of place
            words.insert(r.randrange(len(words)), words.pop(r.randrange(len(words))))
        before = set(home.iterdir())
        with limit(120):
            done = scdnet(*words, cwd=home)
        for path in set(home.iterdir()) - before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        codes.append(done.returncode)
        assert done.returncode in (0, 1, 2) and "Traceback" not in done.stderr, (words, done.stderr)
        if done.returncode:
            said = done.stderr.splitlines()
            assert said and said[-1].startswith("scdnet: "), (words, done.stderr)

    tried()
    assert 0 in codes and 2 in codes


@pytest.mark.parametrize(
    "words",
    [
        "synthesize --out new --seed -1",
        "synthesize --out new --workers -1",
        "synthesize --out new --format pku --workers 0",
        "demo --out new --seed -1",
    ],
)
def test_found_by_fuzzing(words, tmp_path):
    """Command lines that once gave a traceback."""
    assert_mistake(scdnet(*words.split(), cwd=tmp_path), words.split()[-2].strip("-"))
    assert not (tmp_path / "new").exists()

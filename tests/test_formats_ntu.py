"""Damaged files of NTU RGB+D and NW-UCLA and hostile archives, through the command line: one line that names the place, or the rest is prepared."""

import csv
import json
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from commands import assert_mistake, scdnet, table, tree
from hypothesis import given, settings, strategies as st

from scdnet.data.layouts import KINECT20
from scdnet.data.mannequin.perform import perform
from scdnet.data.preprocess import preprocess
from scdnet.data.readers import ntu
from scdnet.data.store import SkeletonStore
from scdnet.utils.files import InputError

NTU, NWUCLA = "S001C001P001R001A00{}.skeleton", "a0{}_s01_e00_v01.json"
GOOD, BAD = (1, 2, 4), 3  # the damaged file is neither the first nor the last


def ntu_text(seed=0, frames=5, end="\n"):
    """A `.skeleton` file of one body. Line 1 counts the frames; lines 2 to 29 are the first: its count, the body, 25, 25 joints."""
    lines = [str(frames)]
    for points in np.random.default_rng(seed).normal(size=(frames, 25, 3)).round(4):
        lines += ["1", "72057594037931101 0 1 1 1 1 0 0.027 0.057 2", "25"]
        lines += [
            f"{x} {y} {z} 277.3 190.4 1036.0 515.2 -0.19 0.05 0.97 -0.13 2" for x, y, z in points
        ]
    return end.join(lines) + end


def nwucla_text(seed=0, frames=5, **changed):
    points = np.random.default_rng(seed).normal(size=(frames, 20, 3)).round(4).tolist()
    return json.dumps({"file_name": "x", "skeletons": points, "label": 3} | changed)


TEXT, POINTS = ntu_text(), json.loads(nwucla_text())["skeletons"]


def edit(number, new, count=1):
    """The lines of an NTU file with `count` lines from `number` on (from 1) replaced by `new`."""
    lines = TEXT.split("\n")
    return "\n".join([*lines[: number - 1], *new, *lines[number - 1 + count :]])


def joints(t, new):
    """An NW-UCLA file with other joints in frame t."""
    return nwucla_text(skeletons=[*POINTS[:t], new, *POINTS[t + 1 :]])


NTU_DAMAGE = {
    "empty": ("", ["line 1"]),
    "garbage": (b"\x00\xff\xfe garbage", ["line 1", "number of frames"]),
    "truncated inside a line": (TEXT[: len(TEXT) // 2], ["line 73"]),
    "truncated after a line": (edit(41, [], 10**6), ["line 41", "the file ends"]),
    "truncated inside the last number": (
        TEXT[:-4],
        ["line 141", "11 values, expected a joint with 12"],
    ),
    "NaN": (edit(5, ["nan 0 1 0 0 0 0 0 0 0 0 2"]), ["line 5", "nan"]),
    "infinite": (edit(5, ["0 inf 1 0 0 0 0 0 0 0 0 2"]), ["line 5", "inf"]),
    "beyond float32": (edit(5, ["0 1e39 1 0 0 0 0 0 0 0 0 2"]), ["line 5", "1e39"]),
    "a word": (edit(5, ["0 one 1 0 0 0 0 0 0 0 0 2"]), ["line 5", "one"]),
    "24 joints announced": (edit(4, ["24"]), ["line 4", "'24'", "number of joints (25)"]),
    "24 joints": (edit(29, []), ["line 29", "expected a joint with 12"]),
    "26 joints": (
        edit(29, ["0 0 1 0 0 0 0 0 0 0 0 2"] * 2),
        ["line 30", "number of bodies of frame 2 of 5"],
    ),
    "two bodies announced": (edit(2, ["2"]), ["line 30", "expected a body with 10"]),
    "no body announced": (edit(2, ["0"]), ["line 3", "number of bodies of frame 2"]),
    "minus one body": (edit(2, ["-1"]), ["line 2", "'-1'"]),
    "a thousand bodies": (edit(2, ["1000"]), ["line 2", "'1000'"]),
    "more frames announced": (edit(1, ["6"]), ["line 142", "the file ends", "frame 6 of 6"]),
    "fewer frames announced": (edit(1, ["4"]), ["line 114", "the end of the file after 4 frames"]),
    "a billion frames": (edit(1, ["999999999"]), ["line 1", "999999999"]),
    "a number of 5000 digits": (edit(1, ["9" * 5000]), ["line 1"]),
    "no frames": ("0\n", ["line 1"]),
    "nobody in any frame": ("3\n0\n0\n0\n", ["no body in any of its 3 frames"]),
    "a short line": (edit(7, ["0.1 0.2 0.3"]), ["line 7", "3 values"]),
    "two lines in one": (edit(5, [" ".join(TEXT.split("\n")[4:6])], 2), ["line 5", "24 values"]),
    "a word on the next line": (TEXT.replace(" 2\n", "\n2 ", 1), ["line 3", "9 values"]),
    "not UTF-8": (edit(5, ["0 \xe9\xff 1 0 0 0 0 0 0 0 0 2"]).encode("latin-1"), ["line 5"]),
    "UTF-16": (TEXT.encode("utf-16"), ["line 1"]),
}
NWUCLA_DAMAGE = {
    "empty": ("", ["line 1"]),
    "garbage": (b"\x00\xff\xfe garbage", ["not JSON"]),
    "truncated": (nwucla_text()[:500], ["line 1"]),
    "truncated on line 2": (nwucla_text().replace("[[[", "\n[[[")[:500], ["line 2"]),
    "NaN": (joints(2, [[np.nan] * 3] * 20), ["frame 2, joint 0", "nan"]),
    "infinite": (joints(2, [[0, 0, np.inf]] * 20), ["frame 2, joint 0", "inf"]),
    "beyond float32": (joints(2, [[0, 0, 1e39]] * 20), ["frame 2, joint 0", "1e+39"]),
    "a word": (joints(2, [["0", 0, 0]] * 20), ["does not hold numbers alone"]),
    "null": (joints(2, [[None, 0, 0]] * 20), ["does not hold numbers alone"]),
    "19 joints in a frame": (joints(2, POINTS[2][:19]), ["expected frames of 20 joints"]),
    "25 joints": (
        nwucla_text(skeletons=np.zeros((4, 25, 3)).tolist()),
        ["(4, 25, 3)", "expected frames of 20 joints"],
    ),
    "two bodies": (nwucla_text(skeletons=np.zeros((4, 2, 20, 3)).tolist()), ["(4, 2, 20, 3)"]),
    "no frames": (nwucla_text(skeletons=[]), ["(0,)"]),
    "nobody in any frame": (
        nwucla_text(skeletons=np.zeros((3, 20, 3)).tolist()),
        ["no body in any of its 3 frames"],
    ),
    "label 0": (nwucla_text(label=0), ["label is 0", "1 to 10"]),
    "label 11": (nwucla_text(label=11), ["label is 11", "1 to 10"]),
    "label of 5000 digits": (nwucla_text().replace(": 3", ": " + "3" * 5000), ["digits"]),
    "no label": (json.dumps({"skeletons": POINTS}), ["'label'"]),
    "a list": (json.dumps(POINTS), ["expected a JSON object"]),
    "ten thousand brackets": ("[" * 10**4, ["not JSON"]),
    "not UTF-8": (nwucla_text(file_name="?").replace("?", "\xff").encode("latin-1"), ["not JSON"]),
}
DAMAGE = [
    (file, write, kind, *case)
    for file, write, cases in ((NTU, ntu_text, NTU_DAMAGE), (NWUCLA, nwucla_text, NWUCLA_DAMAGE))
    for kind, case in cases.items()
]


def as_bytes(content):
    return content if isinstance(content, bytes) else content.encode()


def contents(file, write, numbers=GOOD):
    return {file.format(i): write(i).encode() for i in numbers}


def folder_of(path, members):
    path.mkdir(exist_ok=True)
    for name, content in members.items():
        (path / name).write_bytes(content)
    return path


def zip_of(path, members, method=zipfile.ZIP_DEFLATED, inside="nturgb+d_skeletons/"):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(inside + name, content)
    return path


@pytest.fixture(scope="session")
def expected(tmp_path_factory):
    """The stores that the good files make, by file name pattern."""
    root = tmp_path_factory.mktemp("expected")
    for name, file, write in (("ntu", NTU, ntu_text), ("nwucla", NWUCLA, nwucla_text)):
        assert (
            scdnet(
                "prepare",
                folder_of(root / name, contents(file, write)),
                "--out",
                root / f"{name}_store",
            ).returncode
            == 0
        )
    return {
        NTU: SkeletonStore.open(root / "ntu_store"),
        NWUCLA: SkeletonStore.open(root / "nwucla_store"),
    }


def assert_refused_and_skipped(source, out, expected, bad, *parts):
    """Preparing `source` is a mistake; skipping the bad clip gives what the others give, and lists it."""
    assert_mistake(scdnet("prepare", source, "--out", out), *parts)
    assert not out.exists()
    done = scdnet("prepare", source, "--out", out, "--on-error", "skip")
    assert table(done)["skipped: bad, see skipped.csv"] == "1" and done.stderr == ""
    store = SkeletonStore.open(out, check_digest=True)
    assert store.digest == expected.digest and store.names == expected.names
    with open(out / "skipped.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 2 and rows[1][0] == bad and all(part in rows[1][2] for part in parts), rows


@pytest.mark.parametrize(
    "file, write, kind, content, parts",
    DAMAGE,
    ids=[f"{file[:1]} {kind}" for file, _, kind, *_ in DAMAGE],
)
def test_damaged_file(file, write, kind, content, parts, expected, tmp_path):
    bad = file.format(BAD)
    raw = folder_of(tmp_path / "raw", contents(file, write) | {bad: as_bytes(content)})
    assert_refused_and_skipped(
        raw, tmp_path / "store", expected[file], bad.rpartition(".")[0], bad, *parts
    )


@pytest.mark.parametrize(
    "name, parts",
    [
        ("S001C001P001R001A000", ["action 0", "1 to 120"]),
        ("S001C001P001R001A121", ["action 121"]),
        ("HOLIDAY", ["expected Sss"]),
        ("S001C001P001R001A001 (1)", ["expected Sss"]),
    ],
)
def test_name_that_says_no_action(name, parts, expected, tmp_path):
    raw = folder_of(tmp_path / "raw", contents(NTU, ntu_text) | {f"{name}.skeleton": TEXT.encode()})
    assert_refused_and_skipped(raw, tmp_path / "store", expected[NTU], name, name, *parts)


def test_the_same_name_twice(expected, tmp_path):
    good = contents(NTU, ntu_text)
    first = zip_of(tmp_path / "a.zip", good)
    twice = zip_of(tmp_path / "b.zip", {NTU.format(2): good[NTU.format(2)]})
    for sources in (
        tmp_path,
        folder_of(tmp_path / "lower", {NTU.format(2).lower(): TEXT.encode()}),
    ):
        more = [first] if sources != tmp_path else []
        done = scdnet("prepare", *more, sources, "--out", tmp_path / "store")
        assert_mistake(done, NTU.format(2)[:-9], "is there twice")
        twice.unlink(missing_ok=True)
    done = scdnet("prepare", *more, sources, "--out", tmp_path / "store", "--on-error", "skip")
    assert table(done)["skipped: bad, see skipped.csv"] == "1"
    assert SkeletonStore.open(tmp_path / "store").digest == expected[NTU].digest


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.rstrip(),
        lambda text: text + "\n\n",
        lambda text: text.replace(" ", "  "),
        lambda text: text.replace("\n", " \n"),
    ],
    ids=[
        "CRLF",
        "BOM",
        "no last line end",
        "empty lines at the end",
        "two blanks",
        "a blank at line ends",
    ],
)
@pytest.mark.parametrize(
    "file, write", [(NTU, ntu_text), (NWUCLA, nwucla_text)], ids=["ntu", "nwucla"]
)
def test_what_is_no_damage(file, write, change, expected, tmp_path):
    raw = folder_of(
        tmp_path / "raw",
        {
            name: change(content.decode()).encode()
            for name, content in contents(file, write).items()
        },
    )
    assert scdnet("prepare", raw, "--out", tmp_path / "store").returncode == 0
    assert SkeletonStore.open(tmp_path / "store").digest == expected[file].digest


def test_both_parts_as_downloaded(tmp_path):
    """Two zips with a folder inside, names in small letters, together NTU-120; in any order, as one folder of zips too."""
    first = zip_of(
        tmp_path / "nturgbd_skeletons_s001_to_s017.zip",
        {
            "S001C001P001R001A001.skeleton": ntu_text(1),
            "s002c002p003r001a060.skeleton": ntu_text(2),
        },
    )
    second = zip_of(
        tmp_path / "nturgbd_skeletons_s018_to_s032.zip",
        {"S018C003P041R002A061.skeleton": ntu_text(3)},
        inside="",
    )
    ways = {
        "both": [first, second],
        "other order": [second, first],
        "a folder": [tmp_path],
        "first": [first],
    }
    stores = {}
    for way, sources in ways.items():
        assert scdnet("prepare", *sources, "--out", tmp_path / way).returncode == 0
        stores[way] = SkeletonStore.open(tmp_path / way)
        (tmp_path / way / "clips.csv").rename(tmp_path / f"{way}.txt")
    both = stores["both"]
    assert (
        both.meta["splits"] == {"rule": "ntu120"}
        and len(both.classes) == 120
        and both.names[1] == "S002C002P003R001A060"
    )
    assert both.digest == stores["other order"].digest == stores["a folder"].digest
    assert (
        stores["first"].meta["splits"] == {"rule": "ntu60"} and len(stores["first"].classes) == 60
    )


def test_nwucla_round_trip(tmp_path):
    """The mannequin in NW-UCLA's form, as folder and as zip: the same frames, labels and sides."""
    takes = {
        f"a{action:02}_s01_e00_v{view:02}": perform(action, camera=view)
        for action in (4, 5)
        for view in (1, 2, 3)
    }
    clips = {
        name: take.joints[:, :1, [*range(2), 20, *range(3, 20)]].astype(np.float32)
        for name, take in takes.items()
    }
    texts = {
        f"{name}.json": json.dumps({"skeletons": clip[:, 0].tolist(), "label": int(name[1:3])})
        for name, clip in clips.items()
    }
    (tmp_path / "raw").mkdir()
    for name, text in texts.items():
        (tmp_path / "raw" / name).write_text(text)
    for source in (tmp_path / "raw", zip_of(tmp_path / "raw.zip", texts)):
        assert scdnet("prepare", source, "--out", tmp_path / "store", "--overwrite").returncode == 0
        store = SkeletonStore.open(tmp_path / "store")
        assert store.names == list(clips) and store.labels.tolist() == [
            int(name[1:3]) - 1 for name in clips
        ]
        for i, clip in enumerate(clips.values()):
            np.testing.assert_array_equal(store[i], preprocess(clip, KINECT20, 1))
        assert [side.tolist() for side in store.split("xview")] == [[0, 1, 3, 4], [2, 5]]


# archives

HOSTILE, BYTES = NTU.format(BAD), TEXT.encode()


def hostile(path, name=HOSTILE, content=BYTES, **changed):
    """A zip of the good files and one more, some of whose fields in the directory say something else."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for good, text in contents(NTU, ntu_text).items():
            archive.writestr(good, text)
        archive.writestr(name, content, compress_type=changed.pop("method", None))
    directory = bytearray(path.read_bytes())
    place = directory.rfind(name.encode()) - 46  # PKZIP's layout of a directory entry
    for field, value in changed.items():
        offset, kind = {"flags": (8, "<H"), "crc": (16, "<L"), "size": (24, "<L")}[field]
        struct.pack_into(kind, directory, place + offset, value)
    path.write_bytes(directory)
    return path


@pytest.mark.parametrize(
    "changed, parts",
    [
        (dict(content=bytes(4 * 10**7)), ["40000000 bytes, expected at most"]),
        (dict(size=4 * 10**9), ["4000000000 bytes, expected at most"]),
        (dict(content=bytes(4 * 10**7), size=100), ["CRC"]),
        (dict(crc=0), ["CRC"]),
        (dict(flags=1), ["encrypted"]),
        (dict(method=zipfile.ZIP_BZIP2), ["compression method 12"]),
        (dict(method=zipfile.ZIP_LZMA), ["compression method 14"]),
    ],
    ids=["bomb", "announces 4 GB", "bomb that lies", "checksum", "encrypted", "bzip2", "lzma"],
)
def test_hostile_archive(changed, parts, expected, tmp_path):
    source = hostile(tmp_path / "raw.zip", **changed)
    tracemalloc.start()
    try:
        assert_refused_and_skipped(
            source, tmp_path / "store", expected[NTU], HOSTILE[:-9], "raw.zip/", HOSTILE, *parts
        )
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_archive_in_which_nothing_can_be_found(tmp_path):
    inner = zip_of(tmp_path / "inner.zip", contents(NTU, ntu_text))
    nested = zip_of(tmp_path / "nested.zip", {"inner.zip": inner.read_bytes()})
    assert_mistake(
        scdnet("prepare", nested, "--out", tmp_path / "store"),
        "nested.zip",
        "inner.zip",
        "expected those of ntu, ",
    )
    (tmp_path / "cut.zip").write_bytes(inner.read_bytes()[:-30])
    assert_mistake(
        scdnet("prepare", tmp_path / "cut.zip", "--out", tmp_path / "store"),
        "cut.zip",
        "cannot be read as a zip archive",
    )
    assert tree(tmp_path) == ["cut.zip", "inner.zip", "nested.zip"]


@pytest.mark.parametrize(
    "name, said",
    [
        (f"../../{HOSTILE}", "points outside"),
        (f"/{HOSTILE}", "points outside"),
        (NTU.format(1), "is there twice"),
    ],
)
def test_archive_that_is_not_trusted(name, said, tmp_path):
    with warnings.catch_warnings(action="ignore"):
        source = hostile(tmp_path / "raw.zip", name)
    assert_mistake(scdnet("prepare", source, "--out", tmp_path / "store"), "raw.zip", name, said)
    assert tree(tmp_path) == ["raw.zip"]
    rows = table(scdnet("prepare", source, "--out", tmp_path / "store", "--on-error", "skip"))
    assert rows["clips prepared"] == "3" and rows["skipped: bad, see skipped.csv"] == "1"
    assert said in (tmp_path / "store" / "skipped.csv").read_text()


# whatever is changed in a file, both readers agree: the same numbers, or a mistake


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3000),
            st.sampled_from(list(b"0123456789.-e \n\r\tx\x00\xff")),
            st.booleans(),
        ),
        max_size=3,
    )
)
def test_a_changed_byte_is_named_or_read_as_python_reads_it(changes):
    """Each change writes a byte at a place, instead of the one there or before it."""
    data = bytearray(ntu_text(frames=2).encode())
    for place, byte, insert in changes:
        data[place : place + (not insert)] = [byte]
    try:
        frames = ntu.read_skeleton(bytes(data), "a.skeleton")
    except InputError as error:
        assert str(error).startswith("a.skeleton, line ")
        return
    lines = [line.split() for line in bytes(data).removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    points = [[float(word) for word in line[:3]] for line in lines if len(line) >= 12]
    np.testing.assert_array_equal(
        frames[frames.any(axis=-1)], np.float32(points)[np.any(points, 1)]
    )

"""PKU-MMD through the command line: what is accepted, what is left out and counted, and what is refused in one line."""

import contextlib
import csv
import io
import shutil
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from scdnet.app.cli.main import main
from scdnet.data.mannequin.pku_files import perform_video, synthesize_pku
from scdnet.data.readers import pku
from scdnet.data.store import SkeletonStore

SKELETONS, LABELS, SPLIT = "PKU_Skeleton", "Train_Label_PKU_final", "Split/cross-subject.txt"
VIDEO, ROWS = "0290-L", 4  # the video that is damaged, and its label rows
BOM = b"\xef\xbb\xbf"


def prepare(*words):
    """`scdnet prepare` in this process; output and exit code as `subprocess.run` gives them."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["prepare", *map(str, words), "--workers", "1"])
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def counts(done):
    """The table on stdout."""
    assert done.returncode == 0, done.stderr
    return {
        name.strip(): count
        for name, count in (line.rsplit(maxsplit=1) for line in done.stdout.splitlines())
    }


def assert_mistake(done, *parts):
    assert done.returncode == 2 and done.stdout == "", done.stderr
    assert done.stderr.startswith("scdnet: ") and len(done.stderr.splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr, done.stderr


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Two videos of part I, 0290 and 0291: one on each side of xsub."""
    return synthesize_pku(
        tmp_path_factory.mktemp("pku") / "pku", videos=2, workers=1, progress=False
    )


@pytest.fixture(scope="session")
def store(whole, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "store"
    assert counts(prepare(whole, "--out", out))["clips prepared"] == str(6 * ROWS)
    return SkeletonStore.open(out)


@pytest.fixture
def raw(whole, tmp_path):
    """A copy to damage."""
    return shutil.copytree(whole, tmp_path / "pku")


def edit(folder, change, kind=SKELETONS, video=VIDEO):
    """Change the content of a file: `change` is new content, or a function of the old."""
    path = folder / kind / f"{video}.txt"
    path.write_bytes(change(path.read_bytes()) if callable(change) else change)
    return path


def line(number, change):
    """A function of a file's content that changes one line."""

    def changed(data):
        lines = data.split(b"\n")
        lines[number - 1] = change(lines[number - 1])
        return b"\n".join(lines)

    return changed


# what works


def test_zips_are_read_as_folders_are(whole, store, tmp_path):
    zips = []
    for kind in (SKELETONS, LABELS):
        zips.append(tmp_path / f"{kind}.zip")
        with zipfile.ZipFile(zips[-1], "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for file in sorted((whole / kind).iterdir()):
                archive.write(file, f"{kind}/{file.name}")
    assert counts(prepare(*zips, "--out", tmp_path / "one"))["clips prepared"] == str(len(store))
    counts(
        prepare(
            zips[0], "--out", tmp_path / "two", "--labels", zips[1], "--split-file", whole / SPLIT
        )
    )
    for name in ("one", "two"):
        found = SkeletonStore.open(tmp_path / name)
        assert found.digest == store.digest and found.clips.equals(store.clips)
        assert [side.tolist() for side in found.split("xsub")] == [
            side.tolist() for side in store.split("xsub")
        ]


def test_a_store_is_what_was_performed(store):
    video = perform_video("0290")
    assert store.splits == ["xsub", "xview"] and store.names[:ROWS] == [
        f"{VIDEO}-{i:03}" for i in range(1, ROWS + 1)
    ]
    assert store.labels[:ROWS].tolist() == [row[0] - 1 for row in video.rows]
    assert store.lengths[:ROWS].tolist() == [end - start + 1 for _, start, end, _ in video.rows]
    assert (
        set(store.clips["camera"]) == {1, 2, 3}
        and set(store.clips["setup"]) == {290, 291}
        and set(store.clips["subject"]) == {-1}
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.replace(b"\n", b"\r\n"),
        lambda d: BOM + d,
        lambda d: d.rstrip(),
        lambda d: d + b"\n\n",
    ],
    ids=["CRLF", "BOM", "no last line end", "blank lines at the end"],
)
def test_harmless(change, raw, store, tmp_path):
    for kind in (SKELETONS, LABELS):
        edit(raw, change, kind)
    counts(prepare(raw, "--out", tmp_path / "store"))
    found = SkeletonStore.open(tmp_path / "store")
    assert found.digest == store.digest and found.clips.equals(store.clips)


def test_names_are_read_generously(raw, store, tmp_path):
    for kind, name in ((SKELETONS, "0290-l.txt"), (LABELS, "290_L.TXT")):
        (raw / kind / f"{VIDEO}.txt").rename(raw / kind / name)
    counts(prepare(raw, "--out", tmp_path / "store"))
    assert SkeletonStore.open(tmp_path / "store").clips.equals(store.clips)


@pytest.mark.parametrize(
    "words, first, last",
    [
        ([], 79, 379),
        (["--long-clips", "first"], 29, 329),
        (["--long-clips", "keep"], 29, 429),
        (["--slicing", "zero-based", "--long-clips", "keep"], 30, 429),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else str(v),
)
def test_cutting(words, first, last, raw, tmp_path):
    edit(raw, b"7,30,429,2\n", LABELS)
    counts(
        prepare(
            raw / SKELETONS / f"{VIDEO}.txt",
            "--labels",
            raw / LABELS,
            "--out",
            tmp_path / "store",
            *words,
        )
    )
    found = SkeletonStore.open(tmp_path / "store")
    frames = perform_video("0290").frames["L"]
    assert len(frames) >= 429 and len(found) == 1 and found.lengths[0] == last - first

    def size(x):  # a bone's length survives the turning
        return np.linalg.norm(x[:, 0, 1] - x[:, 0, 0], axis=-1)

    np.testing.assert_allclose(size(found[0]), size(frames[first:last]), atol=1e-5)


# left out by rule, and counted


def rule_cases():
    """Change of a folder, reason, how many."""
    return {
        "nobody there": (
            lambda f: edit(f, lambda d: b"\n".join([b"0 " * 150] * len(d.splitlines()))),
            pku.EMPTY,
            ROWS,
        ),
        "no label file": (lambda f: (f / LABELS / f"{VIDEO}.txt").unlink(), pku.NO_LABELS, 1),
        "no video": (lambda f: (f / SKELETONS / f"{VIDEO}.txt").unlink(), pku.NO_VIDEO, ROWS),
    }


@pytest.mark.parametrize("case", rule_cases())
def test_left_out_by_rule(case, raw, store, tmp_path):
    change, reason, count = rule_cases()[case]
    change(raw)
    table = counts(prepare(raw, "--out", tmp_path / "store"))
    lost = ROWS if case == "no label file" else count
    assert table[f"left out: {reason}"] == str(count) and table["clips prepared"] == str(
        len(store) - lost
    )
    with open(tmp_path / "store" / "skipped.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == count and all(
        row["name"].startswith(VIDEO) and row["reason"] == reason for row in rows
    )


def test_empty_clips_can_be_kept(raw, store, tmp_path):
    _, start, end, _ = perform_video("0290").rows[1]
    lines = (raw / SKELETONS / f"{VIDEO}.txt").read_bytes().splitlines()
    lines[start - 1 : end] = [b"0 " * 150] * (end - start + 1)
    edit(raw, b"\n".join(lines))
    counts(prepare(raw, "--out", tmp_path / "store", "--empty-clips", "keep"))
    found = SkeletonStore.open(tmp_path / "store")
    assert found.clips.drop(columns="persons").equals(store.clips.drop(columns="persons"))
    assert not found[1].any() and found.clips["persons"][1] == 0


@pytest.mark.parametrize("beyond", [0, 1, pku.SLACK])
def test_an_end_shortly_beyond_the_video_is_cut(beyond, raw, tmp_path):
    total = len(perform_video("0290").frames["L"])
    edit(raw, f"5,{total - 59},{total + beyond},2\n".encode(), LABELS)
    counts(prepare(raw, "--out", tmp_path / "store"))
    assert SkeletonStore.open(tmp_path / "store").lengths[0] == 60


def test_a_first_frame_of_zero_is_the_first(raw, tmp_path):
    edit(raw, b"5,0,40,2\n", LABELS)
    counts(prepare(raw, "--out", tmp_path / "store"))
    assert SkeletonStore.open(tmp_path / "store").lengths[0] == 40


# mistakes


def total_frames(folder):
    return len((folder / SKELETONS / f"{VIDEO}.txt").read_bytes().splitlines())


def words(change):
    """A change of the words of a line."""
    return lambda text: b" ".join(change(text.split()))


BAD_VIDEO = {
    "truncated in a line": (lambda d: d[: len(d) // 2], ["line ", "expected 150"]),
    "empty": (b"", ["empty"]),
    "blank": (b" \n\n", ["empty"]),
    "NaN": (line(7, words(lambda w: [b"nan", *w[1:]])), ["line 7:", "'nan'"]),
    "infinite": (line(7, words(lambda w: [b"1e999", *w[1:]])), ["line 7:", "'1e999'"]),
    "a word": (line(7, words(lambda w: [b"one", *w[1:]])), ["line 7:", "'one'"]),
    "24 joints": (line(7, words(lambda w: w[:144])), ["line 7: 144 values"]),
    "one body": (
        lambda d: b"\n".join(b" ".join(row.split()[:75]) for row in d.splitlines()),
        ["line 1: 75 values"],
    ),
    "three bodies": (line(7, words(lambda w: w + w[75:])), ["line 7: 225 values"]),
    "a blank line": (line(7, lambda _: b""), ["line 7: 0 values"]),
    "a frame count in front": (lambda d: b"500\n" + d, ["line 1: 1 values"]),
    "UTF-16": (lambda d: d.decode().encode("utf-16"), ["line 432"]),
    "binary": (b"\x00\xff\xfe\x93NUMPY" * 9, ["line 1"]),
}
BAD_LABELS = {
    "empty": (b"", ["empty"]),
    "three columns": (line(3, lambda _: b"5,20,60"), ["line 3:", "'5,20,60'"]),
    "five columns": (line(3, lambda _: b"5,20,60,2,2"), ["line 3:"]),
    "class 0": (line(3, lambda _: b"0,20,60,2"), ["line 3: class 0, expected 1 to 51"]),
    "class 52": (line(3, lambda _: b"52,20,60,2"), ["line 3: class 52, expected 1 to 51"]),
    "a name for a class": (line(3, lambda _: b"bow,20,60,2"), ["line 3:", "'bow,20,60,2'"]),
    "a fraction": (line(3, lambda _: b"5,20.5,60,2"), ["line 3:", "'5,20.5,60,2'"]),
    "a negative start": (line(3, lambda _: b"5,-20,60,2"), ["line 3:", "'5,-20,60,2'"]),
    "NaN": (line(3, lambda _: b"5,nan,60,2"), ["line 3:", "'5,nan,60,2'"]),
    "a number without end": (line(3, lambda _: b"5,20," + b"9" * 5000 + b",2"), ["line 3:"]),
    "a blank line": (line(3, lambda _: b""), ["line 3:"]),
    "truncated in a row": (lambda d: d.rstrip()[:-5], ["line 4:"]),
    "UTF-16": (lambda d: d.decode().encode("utf-16"), ["line 1"]),
    "a heading": (lambda d: b"class,start,end,confidence\n" + d, ["line 1:"]),
}
CASES = [(SKELETONS, case) for case in BAD_VIDEO] + [(LABELS, case) for case in BAD_LABELS]


@pytest.mark.parametrize("kind, case", CASES, ids=lambda v: v)
def test_bad_file(kind, case, raw, store, tmp_path):
    """One line that names file and line; with skip, the other five videos are prepared as ever."""
    change, parts = (BAD_VIDEO if kind == SKELETONS else BAD_LABELS)[case]
    path = edit(raw, change, kind)
    sources = [raw / SKELETONS, "--labels", raw / LABELS] if kind == SKELETONS else [raw]
    assert_mistake(prepare(*sources, "--out", tmp_path / "store"), str(path), *parts)
    assert not (tmp_path / "store").exists()
    table = counts(prepare(*sources, "--out", tmp_path / "store", "--on-error", "skip"))
    assert table["skipped: bad, see skipped.csv"] == "1" and table["clips prepared"] == str(
        len(store) - ROWS
    )
    found = SkeletonStore.open(tmp_path / "store")
    assert (
        found.names == store.names[ROWS:]
        and found.frames.tobytes() == store.frames[store.starts[ROWS] :].tobytes()
    )
    said = (tmp_path / "store" / "skipped.csv").read_text()
    assert all(part.replace('"', '""') in said for part in parts)


BAD_ROW = {
    "an end far beyond the video": lambda total: f"5,20,{total + pku.SLACK + 1},2",
    "a start beyond the video": lambda total: f"5,{total + 1},{total + 9},2",
    "a large number": lambda total: "5,20,999999999,2",
    "an end before its start": lambda total: "5,200,100,2",
    "an end at its start": lambda total: "5,200,200,2",
}


@pytest.mark.parametrize("case", BAD_ROW)
def test_bad_row(case, raw, store, tmp_path):
    """A row that does not fit its video, or makes no sense, costs one clip, not the video."""
    row = BAD_ROW[case](total_frames(raw))
    path = edit(raw, line(2, lambda _: row.encode()), LABELS)
    assert_mistake(
        prepare(raw, "--out", tmp_path / "store"),
        f"{path}, line 2: ",
        "expected an end after" if "its start" in case else str(total_frames(raw)),
    )
    table = counts(prepare(raw, "--out", tmp_path / "store", "--on-error", "skip"))
    assert table["skipped: bad, see skipped.csv"] == "1"
    assert SkeletonStore.open(tmp_path / "store").names == [store.names[0], *store.names[2:]]


def test_a_video_cut_after_a_line_is_noticed_by_its_labels(raw, store, tmp_path):
    edit(raw, lambda d: b"\n".join(d.splitlines()[: total_frames(raw) // 2]))
    assert_mistake(
        prepare(raw, "--out", tmp_path / "store"),
        f"{LABELS}/{VIDEO}.txt, line",
        f"expected some of the {total_frames(raw)} ",
    )
    counts(prepare(raw, "--out", tmp_path / "store", "--on-error", "skip"))
    found = SkeletonStore.open(tmp_path / "store")
    assert VIDEO + "-001" in found.names and len(store) - ROWS < len(found) < len(store)


@pytest.mark.parametrize("kind", [SKELETONS, LABELS])
def test_a_file_that_is_there_twice(kind, raw, store, tmp_path):
    (raw / "copy").mkdir()
    shutil.copy(raw / kind / f"{VIDEO}.txt", raw / "copy" / "290_l.txt")
    assert_mistake(prepare(raw, "--out", tmp_path / "store"), VIDEO, "twice", f"{kind}/{VIDEO}.txt")
    table = counts(prepare(raw, "--out", tmp_path / "store", "--on-error", "skip"))
    assert (
        table["skipped: bad, see skipped.csv"] == "1"
        and SkeletonStore.open(tmp_path / "store").digest == store.digest
    )


def test_labels_elsewhere_go_before_those_among_the_sources(raw, store, tmp_path):
    shutil.move(raw / LABELS, tmp_path / "labels")
    shutil.copytree(tmp_path / "labels", raw / LABELS)
    for file in (raw / LABELS).iterdir():
        file.write_text("1,1,9\n")
    counts(prepare(raw, "--labels", tmp_path / "labels", "--out", tmp_path / "store"))
    assert SkeletonStore.open(tmp_path / "store").clips.equals(store.clips)


def sets_that_make_no_sense(folder, tmp_path):
    """Words after `prepare`, and parts of what is said."""
    synthesize_pku(tmp_path / "two", part=2, videos=2, workers=1, progress=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "0001-L.txt").write_text("5,10,60,2\n")
    return {
        "no labels": ([folder / SKELETONS], ["no label file", "--labels"]),
        "no videos": ([folder / LABELS], ["no skeleton file"]),
        "labels of other videos": (
            [folder / SKELETONS, "--labels", tmp_path / "other"],
            ["has labels"],
        ),
        "labels without label files": (
            [folder, "--labels", folder / "Split"],
            ["Split", "no label file"],
        ),
        "labels that are videos": (
            [folder / SKELETONS, "--labels", folder / SKELETONS],
            ["no label file", "class,start,end,confidence"],
        ),
        "labels that are nowhere": ([folder, "--labels", tmp_path / "nowhere"], ["nowhere"]),
        "both parts": ([folder, tmp_path / "two"], ["part II", "part I;", "one by one"]),
    }


@pytest.mark.parametrize(
    "case",
    [
        "no labels",
        "no videos",
        "labels of other videos",
        "labels without label files",
        "labels that are videos",
        "labels that are nowhere",
        "both parts",
    ],
)
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_set_makes_no_sense(case, on_error, whole, tmp_path):
    given, parts = sets_that_make_no_sense(whole, tmp_path)[case]
    assert_mistake(prepare(*given, "--out", tmp_path / "store", "--on-error", on_error), *parts)
    assert not (tmp_path / "store").exists()


BAD_SPLIT = {
    "empty": (b"", ["line 2"]),
    "three lines": (b"Training videos:\n0290-L\nValidation videos:\n", ["line 4"]),
    "no names": (
        b"Training videos:\nS001C001P001R001A001\nx\n0291-L",
        ["line 2", "'S001C001P001R001A001'"],
    ),
    "on both sides": (b"x\n0290-L, 0291-L\nx\n0291-L", ["0291-L", "one side"]),
    "of the other part": (b"x\nA01N01-L\nx\nA01N02-L", ["none of the 6 videos", "A01N01-L"]),
    "UTF-16": ("x\n0290-L\nx\n0291-L\n".encode("utf-16"), ["line 2"]),
}


@pytest.mark.parametrize("case", BAD_SPLIT)
def test_bad_split_file(case, whole, tmp_path):
    content, parts = BAD_SPLIT[case]
    (tmp_path / "split.txt").write_bytes(content)
    assert_mistake(
        prepare(whole, "--split-file", tmp_path / "split.txt", "--out", tmp_path / "store"),
        "split.txt",
        *parts,
    )
    assert_mistake(
        prepare(whole, "--split-file", tmp_path / "nowhere.txt", "--out", tmp_path / "store"),
        "nowhere.txt",
    )
    assert not (tmp_path / "store").exists()


def test_a_split_file_of_some_videos(whole, tmp_path):
    (tmp_path / "split.txt").write_bytes(
        BOM + b"Train:\r\n 0290-L.txt ,0290-m,0288-R\r\nRest:\r\n0291-L,   0291-M ,\r\n"
    )
    counts(prepare(whole, "--split-file", tmp_path / "split.txt", "--out", tmp_path / "store"))
    found = SkeletonStore.open(tmp_path / "store")
    sides = [[found.names[i][:-4] for i in side] for side in found.split("xsub")]
    assert [sorted(set(side)) for side in sides] == [["0290-L", "0290-M"], ["0291-L", "0291-M"]]
    assert found.meta["preparation"]["split_file"] == {
        "name": "split.txt",
        "split": "xsub",
        "videos_on_neither_side": 2,
    }


# archives


def test_a_zip_that_climbs_out(whole, tmp_path):
    with zipfile.ZipFile(tmp_path / "climb.zip", "w") as archive:
        archive.write(whole / SKELETONS / f"{VIDEO}.txt", f"../{VIDEO}.txt")
    for on_error in ("fail", "skip"):
        done = prepare(
            tmp_path / "climb.zip",
            "--labels",
            whole / LABELS,
            "--out",
            tmp_path / "store",
            "--on-error",
            on_error,
        )
        assert_mistake(done, "climb.zip", "outside")


def test_a_zip_bomb_and_a_damaged_member(raw, store, tmp_path, monkeypatch):
    """A member that is too large is refused before it is read; one with a wrong checksum when it is read."""
    monkeypatch.setattr(pku, "LARGEST", 2**24)
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        for file in sorted((raw / SKELETONS).iterdir()):
            archive.write(file, file.name)
        archive.writestr(zipfile.ZipInfo("0292-L.txt"), bytes(2**24 + 1), zipfile.ZIP_DEFLATED)
    (raw / LABELS / "0292-L.txt").write_text("5,10,60,2\n")
    sources = [tmp_path / "raw.zip", "--labels", raw / LABELS, "--out", tmp_path / "store"]
    assert_mistake(prepare(*sources), "raw.zip/0292-L.txt", "bytes, expected at most")
    data = bytearray((tmp_path / "raw.zip").read_bytes())
    data[2000] ^= 1  # in the first member
    (tmp_path / "raw.zip").write_bytes(data)
    assert_mistake(prepare(*sources), f"raw.zip/{VIDEO}.txt", "cannot be read")
    table = counts(prepare(*sources, "--on-error", "skip"))
    assert table["skipped: bad, see skipped.csv"] == "2" and table["clips prepared"] == str(
        len(store) - ROWS
    )


def test_labels_damaged_in_their_zip(raw, store, tmp_path):
    """A label file that cannot be read is bad; its video is not taken for one without labels."""
    with zipfile.ZipFile(tmp_path / "labels.zip", "w") as archive:
        for file in sorted((raw / LABELS).iterdir()):
            archive.write(file, file.name)
    data = bytearray((tmp_path / "labels.zip").read_bytes())
    data[data.index(b"0290-L.txt") + 12] ^= 1  # in its rows
    (tmp_path / "labels.zip").write_bytes(data)
    for sources in (
        [raw / SKELETONS, "--labels", tmp_path / "labels.zip"],
        [raw / SKELETONS, tmp_path / "labels.zip"],
    ):
        out = tmp_path / f"store{len(sources)}"
        assert_mistake(prepare(*sources, "--out", out), f"labels.zip/{VIDEO}.txt", "cannot be read")
        table = counts(prepare(*sources, "--out", out, "--on-error", "skip"))
        assert table["skipped: bad, see skipped.csv"] == "1" and table["clips prepared"] == str(
            len(store) - ROWS
        )


def test_any_number_of_workers(whole, store, tmp_path):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert (
            main(["prepare", str(whole), "--out", str(tmp_path / "store"), "--workers", "2"]) == 0
        )
    assert SkeletonStore.open(tmp_path / "store").digest == store.digest

"""What `scdnet prepare` costs on generated NTU files: time for each file, time over processes, memory, size of the store.

    python tools/measure_prepare.py

Takes about two minutes on two quiet cores, and 7 GB in TMPDIR, which are given back. Linux only, as it looks into /proc.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from scdnet.data.readers import ntu
from scdnet.data.preprocess import preprocess
from scdnet.data.layouts import NTU25
from scdnet.data.store import SkeletonStore
from scdnet.data.mannequin.ntu_files import skeleton_text, synthesize
from scdnet.data.mannequin.perform import perform

PADDED = 300  # frames of a clip in AGCN's arrays (N, 3, 300, 25, 2)


def plain_normaliser():
    """`normalize_plain` as the notebook on preprocessing writes it."""
    cells = json.loads((Path(__file__).parents[1] / "nbs" / "16_preprocess.ipynb").read_text())[
        "cells"
    ]
    (source,) = (
        "".join(cell["source"])
        for cell in cells
        if "def normalize_plain" in "".join(cell["source"])
    )
    names = {"np": np}
    exec(source, names)
    return names["normalize_plain"]


def plain(data, normalize):
    frames = ntu.read_skeleton(data)
    return normalize(np.pad(frames, ((0, 0), (0, 2 - frames.shape[1]), (0, 0), (0, 0))), NTU25)


def exported(data):
    return preprocess(ntu.read_skeleton(data), NTU25)


def seconds(call, *arguments):
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def speed():
    """Plain and exported take turns on one file after the other, one core."""
    print(
        "one file, one core             frames  bodies    kB   plain ms  exported ms   times   difference m"
    )
    normalize = plain_normaliser()
    for action in (7, 4, 22, 50, 59):
        take = perform(action, camera=2, replication=2, seed=1)
        data = skeleton_text(take).encode()
        ours = exported(data)
        difference = np.abs(plain(data, normalize) - ours).max()
        slow, fast = 1000 * np.median(
            [(seconds(plain, data, normalize), seconds(exported, data)) for _ in range(9)], axis=0
        )
        print(
            f"{take.name:30s} {len(take.joints):6d} {take.joints.shape[1]:7d} {len(data) // 1024:5d} "
            f"{slow:10.1f} {fast:12.2f} {slow / fast:7.1f} {difference:14.1e}"
        )


def names():
    """Names of NTU-60 recordings that are not on the list of missing skeletons."""
    for setup, camera, subject, replication, action in itertools.product(
        range(1, 18), (1, 2, 3), range(1, 9), (1, 2), range(1, 61)
    ):
        if (
            name := f"S{setup:03}C{camera:03}P{subject:03}R{replication:03}A{action:03}"
        ) not in ntu.missing_skeletons():
            yield name


def many(files, folder, count):
    """A folder of `count` recordings: hard links to a few files."""
    folder.mkdir()
    for file, name in zip(itertools.cycle(files), itertools.islice(names(), count)):
        os.link(file, folder / f"{name}.skeleton")
    return folder


def processes(session):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            yield pid


def memory(session):
    """MB of a process and its children now: resident, where shared pages count for each; and proportional, where they count once."""
    resident = proportional = 0
    for pid in processes(session):
        try:
            resident += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf(
                "SC_PAGE_SIZE"
            )
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            proportional += 1024 * next(
                int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")
            )
        except (OSError, StopIteration):
            continue
    return resident / 1e6, proportional / 1e6


def prepare(source, out, workers):
    """`scdnet prepare` in a process of its own: seconds, and the peaks of its memory."""
    start, peaks = time.perf_counter(), (0.0, 0.0)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "scdnet",
            "prepare",
            source,
            "--out",
            out,
            "--workers",
            str(workers),
            "--overwrite",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None:
        peaks = tuple(map(max, peaks, memory(process.pid)))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"scdnet prepare ended with {process.returncode}")
    return time.perf_counter() - start, *peaks


def show(count, workers, took, resident, proportional):
    print(
        f"{count:6d} clips, {workers} processes   {took:6.1f} s   {1000 * took / count:5.2f} ms a clip   "
        f"peak {resident:4.0f} MB resident, {proportional:4.0f} MB proportional",
        flush=True,
    )


def main():
    speed()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        files = sorted(synthesize(root / "raw", progress=False).glob("*.skeleton"))
        print(
            "\nthe whole of scdnet prepare, start of Python included; the first run warms the disk's cache"
        )
        for count in (500, 2000, 20_000):
            many(files, root / str(count), count)
        for count, workers in (
            (2000, 1),
            (2000, 1),
            (2000, 2),
            (2000, 1),
            (2000, 2),
            (500, 2),
            (20_000, 2),
        ):
            show(count, workers, *prepare(root / str(count), root / "store", workers))
        prepare(root / "raw", root / "store", 2)
        store = SkeletonStore.open(root / "store")
        held, padded = (
            sum(file.stat().st_size for file in (root / "store").iterdir()),
            len(store) * 3 * PADDED * 25 * 2 * 4,
        )
        print(
            f"\n{len(store)} clips of {store.lengths.mean():.0f} frames: store {held / 1e6:.1f} MB, padded arrays {padded / 1e6:.1f} MB, "
            f"share {held / padded:.3f}"
        )


if __name__ == "__main__":
    main()

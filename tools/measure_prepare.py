"""What `scdnet prepare` costs on generated NTU files: seconds, and the memory of all its processes.

    python tools/measure_prepare.py [CLIPS ...]

By default 500, 2000 and 20 000 clips, which takes two minutes on two quiet cores and 7 GB in TMPDIR, given back at the end. Linux only, as it
looks into /proc.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scdnet.data.mannequin.ntu_files import synthesize
from scdnet.data.readers.ntu import missing_skeletons


def recordings(files, folder, count):
    """A folder of `count` recordings under names of NTU-60: hard links to a few files."""
    folder.mkdir()
    numbers = itertools.product(range(1, 18), (1, 2, 3), range(1, 9), (1, 2), range(1, 61))
    names = ("S{:03}C{:03}P{:03}R{:03}A{:03}".format(*n) for n in numbers)
    present = (name for name in names if name not in missing_skeletons())
    for file, name in zip(itertools.cycle(files), itertools.islice(present, count)):
        os.link(file, folder / f"{name}.skeleton")
    return folder


def memory(session):
    """MB of a process and its children now: resident, where shared pages count for each; and proportional, where they count once."""
    totals = {"Rss:": 0, "Pss:": 0}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[3]) == session:
                for line in stat.with_name("smaps_rollup").read_text().splitlines():
                    name, *size = line.split()
                    if name in totals:
                        totals[name] += int(size[0])
        except (OSError, ValueError):
            continue  # it has ended
    return [kilobytes / 1000 for kilobytes in totals.values()]


def prepare(source, out, workers):
    """`scdnet prepare` in a process of its own: seconds, and the peaks of its memory in MB."""
    start, peaks = time.perf_counter(), [0.0, 0.0]
    options = ["--out", out, "--workers", str(workers), "--overwrite"]
    command = [sys.executable, "-m", "scdnet", "prepare", source, *options]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen(command, start_new_session=True, **quiet)
    while process.poll() is None:
        peaks = list(map(max, peaks, memory(process.pid)))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"scdnet prepare ended with {process.returncode}")
    return time.perf_counter() - start, *peaks


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("counts", metavar="CLIPS", type=int, nargs="*", default=[500, 2000, 20_000])
    counts = parser.parse_args().counts
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        files = sorted(synthesize(root / "raw", progress=False).glob("*.skeleton"))
        print("start of Python included; the first run warms the disk's cache")
        for count in counts:
            source = recordings(files, root / str(count), count)
            for workers in (1, 2, 1, 2):
                took, resident, proportional = prepare(source, root / "store", workers)
                print(
                    f"{count:6d} clips, {workers} processes   {took:6.1f} s   {1000 * took / count:5.2f} ms a clip   "
                    f"peak {resident:4.0f} MB resident, {proportional:4.0f} MB proportional",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""Execute notebooks and store what they show. Cells flagged slow, gpu or data keep their stored outputs, unless the flag is given.

Usage: python tools/execute_notebooks.py [--flags data,slow] NOTEBOOK ...
"""

import argparse
import configparser
import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


class Flagged(NotebookClient):
    """Leaves out the cells that carry one of `skip`."""

    skip: frozenset = frozenset()

    async def async_execute_cell(self, cell, cell_index, **kwargs):
        flags = set(re.findall(r"^#\|\s*(\w+)\s*$", cell.source, re.MULTILINE))
        return (
            cell
            if flags & self.skip
            else await super().async_execute_cell(cell, cell_index, **kwargs)
        )


def main():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    known = set(settings["DEFAULT"]["tst_flags"].split())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument(
        "--flags",
        default="",
        help=f"comma-separated flags to execute too, of {', '.join(sorted(known))}",
    )
    given = parser.parse_args()
    if "slow" in given.flags.split(","):
        os.environ["SCDNET_SLOW"] = (
            "1"  # elsewhere such a cell says that it is left out: who presses "run all" has not asked for hours
        )
    for path in given.notebooks:
        notebook = nbformat.read(path, 4)
        client = Flagged(
            notebook,
            timeout=3600,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
            store_widget_state=False,
        )
        client.skip = frozenset(known - set(given.flags.split(",")))
        client.execute()
        for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
            if "image/png" in output.get(
                "data", {}
            ):  # a live widget ends with its kernel; its picture stays
                output.data.pop("application/vnd.jupyter.widget-view+json", None)
        nbformat.write(notebook, path)
        print(f"{path}: {path.stat().st_size // 1024} kB", file=sys.stderr)


if __name__ == "__main__":
    main()

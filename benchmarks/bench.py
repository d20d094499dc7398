"""How fast is it? Times the stages of a preset, the plain model and the accelerated one in turn.

    python benchmarks/bench.py --preset paper --json bench.json

The clips are the mannequin's, half of them with a second person. Versions of a stage take turns, and ratios are medians over the
rounds, because the speed of a machine varies from second to second.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from scdnet.data.layouts import NTU25
from scdnet.data.mannequin.perform import sample_clip
from scdnet.data.store import SkeletonStore
from scdnet.evaluation.knn import nearest
from scdnet.model.fast import accelerate
from scdnet.training.batches import Batches
from scdnet.training.config import PRESETS, PretrainConfig, build_optimizer
from scdnet.training.moco import MomentumContrast
from scdnet.training.pretrain import build_model
from scdnet.utils.files import InputError, write_json
from scdnet.utils.machine import find_device, machine

Stage = dict[str, Callable[[], object]]  # name of a version -> a call that is timed
ALONE, COMPANY = (1, 6, 8, 22, 24, 31), (50, 58, 59)  # actions of one person and of two


def example_store(folder: Path, count: int) -> SkeletonStore:
    """A store of `count` mannequin clips, half of them with a second person."""
    pair = [sample_clip(action) for action in COMPANY]
    alone = [np.pad(sample_clip(a), ((0, 0), (0, 1), (0, 0), (0, 0))) for a in ALONE]
    clips = [(pair if i % 2 else alone)[i // 2 % (3 if i % 2 else 6)] for i in range(count)]
    return SkeletonStore.from_arrays(folder / "store", clips, [0] * count, NTU25)


def alternate(stage: Stage, repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each counted call of each version; the versions take turns, after one call each that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in stage}
    for turn in range(repeats + 1):
        for name, call in stage.items():
            _wait(device)
            began = time.perf_counter()
            call()
            _wait(device)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rows(stage: str, clips: int, seconds: dict[str, list[float]]) -> list[dict]:
    """A row for each version: clips per second, and how many times as fast as the first version."""
    first = next(iter(seconds.values()))
    return [
        {
            "stage": stage,
            "version": name,
            "ms": 1e3 * statistics.median(mine),
            "clips/s": clips / statistics.median(mine),
            "ratio": statistics.median(a / b for a, b in zip(first, mine, strict=True)),
        }
        for name, mine in seconds.items()
    ]


def step(model: MomentumContrast, config: PretrainConfig, views: tuple) -> Callable[[], None]:
    """A pretraining step but for the views: momentum update, keys, loss, gradients, optimiser, queues."""
    optimizer = build_optimizer(config.optim, model.query)

    def call() -> None:
        loss = model(*views).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return call


def step_stage(config: PretrainConfig, views: tuple, device: torch.device) -> Stage:
    """Plain and accelerated steps, in float32 and in bfloat16."""
    stage = {}
    for precision in ("fp32", "bf16"):
        for name, convert in (("plain", lambda model: model), ("accelerated", accelerate)):
            varied = replace(config, precision=precision)
            model = convert(build_model(varied, NTU25, persons=2, coords=3)).to(device).train()
            stage[f"{name} {precision}"] = step(model, varied, views)
    return stage


def encode_stage(config: PretrainConfig, clips: torch.Tensor, device: torch.device) -> Stage:
    """Clues of a batch in evaluation mode."""
    plain = build_model(config, NTU25, persons=2, coords=3).query.encoder.to(device).eval()
    fast = accelerate(copy.deepcopy(plain))
    return {
        name: lambda encoder=encoder: torch.no_grad()(encoder)(clips)
        for name, encoder in {"plain": plain, "accelerated": fast}.items()
    }


def bench(
    preset: str = "demo",
    device: str = "auto",
    batch_size: int | None = None,
    repeats: int = 5,
    config: PretrainConfig | None = None,
) -> dict:
    """Timings of all stages.

    Parameters
    ----------
    preset : sizes of the model, one of `PRESETS`.
    device : "auto": the first GPU, else the CPU.
    batch_size : clips of a step. None: the preset's, but 16 for `paper` on a CPU.
    repeats : counted rounds of each stage.
    config : in place of the preset's.

    Returns
    -------
    A dictionary of `machine`, `preset`, `batch_size` and `stages`, a list of rows.
    """
    where = find_device(device)
    config = config or PRESETS[preset]
    size = batch_size or (16 if (preset, where.type) == ("paper", "cpu") else config.batch_size)
    config = replace(config, batch_size=size, device=device)
    found: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        store = example_store(Path(folder), 2 * size)
        batches = Batches(config, store, np.arange(len(store)), where, prefetch=False)
        batch = batches(0)
        views = batch.view_q, batch.view_k
        features = torch.randn(4096, 2 * config.encoder.width, device=where)
        stages = {
            "two views": lambda: {"": lambda: batches(0)},
            "pretraining step": lambda: step_stage(config, views, where),
            "encoding": lambda: encode_stage(config, batch.clean, where),
            "1-NN, 4096 in 4096": lambda: {"": lambda: nearest(features, features)},
        }
        for name, make in stages.items():
            print(f"timing: {name}", file=sys.stderr)
            clips = len(features) if "1-NN" in name else size
            found += rows(name, clips, alternate(make(), repeats, where))
    return {
        "machine": machine(),
        "preset": preset,
        "device": where.type,
        "batch_size": size,
        "stages": found,
    }


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=list(PRESETS), default="demo")
    parser.add_argument("--device", default="auto", help="auto: the first GPU, else the CPU")
    parser.add_argument("--batch-size", type=int, help="default: the preset's; paper on a CPU: 16")
    parser.add_argument("--repeats", type=int, default=5, help="counted rounds of each stage")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args(words)
    if options.repeats < 1 or (options.batch_size or 2) < 2:
        parser.error("--repeats must be at least 1 and --batch-size at least 2")
    if options.json and options.json.exists():
        parser.error(f"{options.json}: exists already")
    try:
        result = bench(options.preset, options.device, options.batch_size, options.repeats)
        if options.json:
            write_json(options.json, result)
    except (InputError, OSError) as error:
        parser.error(str(error))
    print(pd.DataFrame(result["stages"]).to_string(index=False, float_format="{:.3g}".format))
    print(json.dumps(result["machine"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

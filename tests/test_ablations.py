"""Ablation tables: rows that meet the paper's, work that is not done twice, a cut that leaves no trace, and mistakes that are told in one line.

Started by torchrun, this file is the program of a rank: it fills a table and notes what came of it.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import assert_mistake, scdnet
from safetensors.torch import load_file

from scdnet.data.layouts import KINECT20
from scdnet.data.store import SkeletonStore
from scdnet.model.encoder import EncoderConfig
from scdnet.paper import ablations
from scdnet.paper.ablations import (
    FULL,
    TABLES,
    Row,
    ablate,
    compare_order,
    configured,
    order_text,
    table_text,
)
from scdnet.training.config import PRESETS
from scdnet.training.pretrain import Trainer, pretrain
from scdnet.training.run import Run, load_encoder
from scdnet.utils.distributed import is_first, joined
from scdnet.utils.files import InputError, shipped

TINY = replace(
    PRESETS["demo"],
    epochs=3,
    batch_size=8,
    queue_size=16,
    precision="fp32",
    device="cpu",
    save_every=1,
    view=replace(PRESETS["demo"].view, crop_least=8),
    encoder=EncoderConfig(
        frames=16, channels=8, width=16, heads=4, projection=8, projector_norm=True
    ),
)
ROWS = tuple(row for row in TABLES["table5"] if row.name in (FULL, "no-extractor"))


def make(folder):
    rng = np.random.default_rng(0)
    clips = [
        np.cumsum(rng.normal(size=(rng.integers(10, 30), 20, 3)), 0).astype(np.float32) / 5
        for _ in range(32)
    ]
    names = [f"clip{i:02}" for i in range(32)]
    return SkeletonStore.from_arrays(
        folder / "store",
        clips,
        np.arange(32) % 4,
        KINECT20,
        names=names,
        splits={"half": (names[:16], names[16:])},
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make(tmp_path_factory.mktemp("ablations"))


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Two rows are enough to see what happens to a table."""
    monkeypatch.setitem(TABLES, "table5", ROWS)


def fill(store, out, config=TINY, **options):
    return ablate("table5", store, "half", config, out, "demo", progress=False, **options)


def result_of(run, protocol):
    """The file of a protocol's result."""
    (path,) = (run / "eval").glob(f"{protocol}-half*.json")
    return path


def without_times(result):
    return [
        {key: value for key, value in row.items() if key != "hours"} for row in result["rows"]
    ], result["order"]


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TABLES, "table5", ROWS)
        out = tmp_path_factory.mktemp("whole")
        return out, fill(store, out)


def test_every_row_of_the_paper_has_a_name_and_no_name_lacks_a_row(monkeypatch):
    monkeypatch.undo()
    with open(shipped("published.csv"), encoding="utf-8", newline="") as file:
        printed = {
            (row["table"], row["configuration"])
            for row in csv.DictReader(file)
            if row["table"] in "5678" and row["method"] == "SCD-Net"
        }
    named = [
        (table.removeprefix("table"), row.configuration)
        for table, rows in TABLES.items()
        for row in rows
    ]
    assert len(named) == len(set(named)) == 27 and set(named) == printed


def test_names_make_folders(monkeypatch):
    monkeypatch.undo()
    names = [row.name for rows in TABLES.values() for row in rows]
    assert all(re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", name) for name in names)
    assert (
        names.count(FULL) == 4 and len(names) == len(set(names)) + 3
    )  # the full model's runs serve all tables, no other's do


@pytest.mark.parametrize("preset", ("paper", "demo"))
def test_rows_of_a_table_are_different_models_and_the_full_one_is_the_preset(preset, monkeypatch):
    monkeypatch.undo()
    for rows in TABLES.values():
        made = [configured(row, PRESETS[preset]) for row in rows]
        assert all(a != b for i, a in enumerate(made) for b in made[:i])
        assert [
            row.name for row, config in zip(rows, made, strict=True) if config == PRESETS[preset]
        ] == [FULL]


def test_what_a_table_says(whole, store):
    out, result = whole
    assert json.loads((out / "table5.json").read_text()) == json.loads(json.dumps(result))
    assert [row["name"] for row in result["rows"]] == ["no-extractor", FULL] and result[
        "clips"
    ] == {"test": 16}
    for row, paper in zip(
        result["rows"], ({"top1": 80.0, "top5": 94.9}, {"top1": 86.6, "top5": 97.6}), strict=False
    ):
        run = out / f"{row['name']}-0"
        assert row["paper"] == paper and row["seeds"] == [0] and row["hours"] > 0
        for protocol in ("linear", "knn"):
            judged = json.loads(result_of(run, protocol).read_text())
            assert row[protocol] == {
                "top1": judged["top1"],
                "top1_std": None,
                "each": [judged["top1"]],
            }
            assert (
                row["baselines"]["untrained"][protocol]["top1"]
                == judged["baselines"]["untrained"]["top1"]
            )
        assert set(row["baselines"]) == (
            {"untrained", "raw"} if row["name"] == FULL else {"untrained"}
        )
        assert not (run / "checkpoint").exists() and Run.open(run).config == configured(
            {r.name: r for r in ROWS}[row["name"]], TINY
        )
    assert [line[0] for line in table_text(result)] == ["row", "no-extractor", FULL] and len(
        result["order"]["pairs"]
    ) == 1
    assert order_text(result)[0].startswith("1 pairs of rows: ")


def test_a_finished_row_is_not_run_again(whole, store, monkeypatch):
    out, result = whole
    before = {
        path: path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.is_file() and path.name != "table5.json"
    }

    def never(*_, **__):
        raise AssertionError("it was run again")

    monkeypatch.setattr(ablations, "pretrain", never)
    monkeypatch.setattr(ablations, "evaluate", never)
    assert without_times(fill(store, out)) == without_times(result)
    assert before == {
        path: path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.is_file() and path.name != "table5.json"
    }


def test_only_what_is_missing_is_judged_again(whole, store, tmp_path, monkeypatch):
    out = shutil.copytree(whole[0], tmp_path / "out")
    result_of(out / "full-0", "knn").unlink()
    asked = []
    monkeypatch.setattr(ablations, "pretrain", None)
    evaluate = ablations.evaluate

    def noted(run, store, split, protocol, *rest, **options):
        asked.append(protocol)
        return evaluate(run, store, split, protocol, *rest, **options)

    monkeypatch.setattr(ablations, "evaluate", noted)
    assert without_times(fill(store, out)) == without_times(whole[1]) and asked == ["knn"]


def test_a_cut_leaves_no_trace(whole, store, tmp_path, monkeypatch):
    """Stopped in the second epoch of the second row: the first row stands, the second goes on, and not a digit differs."""
    steps, step = [], Trainer.step

    def cut(state):
        if len(steps) == 6 + 3:
            raise KeyboardInterrupt
        steps.append(state.steps_done)
        return step(state)

    monkeypatch.setattr(Trainer, "step", cut)
    with pytest.raises(KeyboardInterrupt):
        fill(store, tmp_path / "out")
    part = json.loads((tmp_path / "out" / "table5.json").read_text())
    assert [bool(row["linear"]) for row in part["rows"]] == [True, False] and part["order"][
        "pairs"
    ] == []
    steps[:] = [-1] * 20  # no further cut
    result = fill(store, tmp_path / "out")
    assert steps[20:] == [2, 3, 4, 5]  # from the end of the first epoch
    assert without_times(result) == without_times(whole[1])
    ours, theirs = (
        load_file(out / "full-0" / "encoder.safetensors") for out in (tmp_path / "out", whole[0])
    )
    assert all(ours[name].equal(theirs[name]) for name in ours.keys() | theirs.keys())


def test_more_seeds_join_what_is_there(whole, store, tmp_path):
    out = shutil.copytree(whole[0], tmp_path / "out")
    first = (out / "full-0" / "encoder.safetensors").stat().st_mtime_ns
    row = fill(store, out, seeds=(0, 1))["rows"][1]
    each = [
        json.loads(result_of(out / f"full-{seed}", "linear").read_text())["top1"] for seed in (0, 1)
    ]
    assert row["seeds"] == [0, 1] and row["linear"] == {
        "top1": pytest.approx(np.mean(each)),
        "top1_std": pytest.approx(np.std(each, ddof=1)),
        "each": each,
    }
    assert (
        Run.open(out / "full-1").config.seed == 1
        and (out / "full-0" / "encoder.safetensors").stat().st_mtime_ns == first
    )


def test_mistakes_are_told_before_anything_is_run(whole, store, tmp_path, monkeypatch):
    monkeypatch.setattr(ablations, "pretrain", None)
    out = whole[0]
    mistakes = [
        (
            lambda: ablate("table9", store, "half", TINY, tmp_path / "new"),
            "table 'table9', expected one of table5, table6, table7, table8",
        ),
        (lambda: fill(store, tmp_path / "new", seeds=()), "seeds are ()"),
        (lambda: fill(store, tmp_path / "new", seeds=(1, 1)), "seeds are (1, 1)"),
        (lambda: ablate("table5", store, "nowhere", TINY, tmp_path / "new"), "nowhere"),
        (
            lambda: ablate(
                "table6",
                store,
                "half",
                replace(TINY, encoder=replace(TINY.encoder, channels=4)),
                tmp_path / "new",
            ),
            "row 'half-channels': encoder.channels is '2'",
        ),
        (lambda: fill(store, out, replace(TINY, epochs=4)), "--epochs (was 3, now 4)"),
    ]
    for call, said in mistakes:
        with pytest.raises(InputError) as caught:
            call()
        assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


NEW = {"": ("granularity", "loss"), "encoder": ("extractor", "decoupling")}


def test_a_class_without_a_training_clip_is_told_before_anything_is_run(tmp_path):
    store = make(tmp_path)
    train, _ = store.split("half")
    store.labels = np.where(
        np.isin(np.arange(len(store.labels)), train) & (store.labels == 3), 2, store.labels
    )
    with pytest.raises(InputError, match=r"class '3' has 4 test clips and no training clip"):
        fill(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_from_before_the_ablations_still_loads(whole, tmp_path):
    run = shutil.copytree(whole[0] / "full-0", tmp_path / "run")
    content = json.loads((run / "config.json").read_text())
    for part, names in NEW.items():
        for name in names:
            del (content["config"][part] if part else content["config"])[name]
    (run / "config.json").write_text(json.dumps(content))
    assert Run.open(run).config == TINY
    assert len(load_encoder(run).state_dict()) == len(load_file(run / "encoder.safetensors"))


@pytest.mark.parametrize(
    "row",
    [row for table in ("table5", "table7") for row in TABLES[table] if row.name != FULL],
    ids=lambda row: row.name,
)
def test_each_model_is_saved_and_goes_on(row, store, tmp_path, monkeypatch):
    """Whatever is left out of the model, its checkpoints hold all that is there."""
    config, step = configured(row, replace(TINY, epochs=2)), Trainer.step
    pretrain(store, "half", config, tmp_path / "whole", progress=False)

    def cut(state):
        if state.steps_done == 3:
            raise KeyboardInterrupt
        return step(state)

    monkeypatch.setattr(Trainer, "step", cut)
    with pytest.raises(KeyboardInterrupt):
        pretrain(store, "half", config, tmp_path / "cut", progress=False)
    monkeypatch.setattr(Trainer, "step", step)
    pretrain(store, "half", config, tmp_path / "cut", resume=True, progress=False)
    ours, theirs = (load_encoder(tmp_path / name).state_dict() for name in ("cut", "whole"))
    assert all(ours[name].equal(theirs[name]) for name in ours.keys() | theirs.keys())


def test_the_command(whole, store):
    """The fixture's table once more, as it is typed: every option of the configuration has its dotted name."""
    words = (
        "ablate table5 --split half --preset demo --epochs 3 --batch-size 8 --queue-size 16 --precision fp32 --device cpu --save-every 1 --view.crop-least 8 --encoder.frames 16 "
        "--encoder.channels 8 --encoder.width 16 --encoder.heads 4 --encoder.projection 8"
    ).split()
    done = scdnet(*words, "--store", store.path, "--out", whole[0])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert (
        [line.split()[0] for line in lines[:3]] == ["row", "no-extractor", FULL]
        and lines[4].startswith("1 pairs of rows: ")
        and lines[-1] == str(whole[0] / "table5.json")
    )
    command = json.loads((whole[0] / "table5.json").read_text())["command"]
    assert command.startswith(
        f"scdnet ablate table5 --store {store.path.name} --split half --preset demo --epochs 3 --batch-size 8 "
    ) and command.endswith(" --seeds 0")
    assert_mistake(
        scdnet(*words, "--store", store.path, "--out", whole[0], "--temperature", 0.3),
        "cannot resume",
        "temperature (was 0.2, now 0.3)",
    )
    assert_mistake(
        scdnet(*words, "--store", store.path, "--out", whole[0], "--seed", 1),
        "seed is 1",
        "--seeds",
    )


def test_a_field_that_is_not_there():
    with pytest.raises(InputError, match="wings"):
        configured(Row("wrong", "", {"encoder.wings": 2}), TINY)


def test_order_is_the_same_from_either_side():
    rows = [
        {
            "name": str(i),
            "paper": {"top1": paper},
            "linear": {"top1": ours, "top1_std": None, "each": [ours]},
        }
        for i, (paper, ours) in enumerate([(86, 90), (85, 50), (85, 20), (80, 91)])
    ]
    there, back = compare_order(rows, 100), compare_order(rows[::-1], 100)

    def key(pair):
        return pair["better"], pair["worse"]

    assert (
        sorted(there["pairs"], key=key) == sorted(back["pairs"], key=key)
        and len(there["pairs"]) == 5
    )  # two are equal in the paper
    assert {k: there[k] for k in ("same", "reversed", "unclear")} == {
        "same": 2,
        "reversed": 2,
        "unclear": 1,
    }


def test_two_ranks_fill_a_table(tmp_path):
    """Of several processes one writes, and all agree."""
    make(tmp_path)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        __file__,
        str(tmp_path),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "table7.json").read_text())
    assert (
        all(row["linear"] for row in result["rows"])
        and Run.open(tmp_path / "out" / "full-0").config == TINY
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    TABLES["table7"] = TABLES["table7"][1:2] + TABLES["table7"][3:4]
    with joined():
        found = ablate(
            "table7",
            SkeletonStore.open(folder / "store"),
            "half",
            TINY,
            folder / "out",
            "demo",
            progress=False,
        )
        assert is_first() or found["rows"]

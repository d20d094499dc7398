"""Two processes that torchrun starts: they compute what one does, survive the loss of one, and speak with one voice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import program, scdnet
from rank_program import CONFIG, awake, clues, outcome
from safetensors.torch import load_file

from scdnet.data.layouts import KINECT20
from scdnet.data.store import SkeletonStore
from scdnet.training.moco import follow
from scdnet.training.pretrain import pretrain
from scdnet.training.run import Run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DELAY": "600"}
SIZES = [
    "--preset",
    "demo",
    "--batch-size",
    8,
    "--queue-size",
    16,
    "--precision",
    "fp32",
    "--device",
    "cpu",
    "--save-every",
    1,
    "--view.crop-least",
    8,
    "--encoder.frames",
    16,
    "--encoder.channels",
    8,
    "--encoder.width",
    32,
    "--encoder.projection",
    16,
    "--encoder.dropout",
    0,
]


def torchrun(*words):
    return subprocess.run(
        [*TORCHRUN, *map(str, words)], capture_output=True, text=True, timeout=300, env=ENVIRONMENT
    )


def ours(text):
    """Lines of stderr that are the program's, not torchrun's."""
    return [line for line in text.splitlines() if line.startswith(("scdnet:", "rank"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of 21 training clips, half of them with company, and what two ranks made of it."""
    folder = tmp_path_factory.mktemp("ranks")
    rng = np.random.default_rng(0)
    clips = [
        np.cumsum(rng.normal(size=(30, 2, 20, 3)), 0).astype(np.float32) / 5 for _ in range(30)
    ]
    for i, clip in enumerate(clips):
        if i % 2:
            clip[:, 1] = 0
    names = [f"clip{i:02}" for i in range(30)]
    SkeletonStore.from_arrays(
        folder / "store",
        clips,
        np.arange(30) % 3,
        KINECT20,
        names=names,
        splits={"half": (names[:21], names[21:]), "pairs": (names[::2], names[1::2])},
    )
    done = torchrun(Path(__file__).with_name("rank_program.py"), folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def one(folder):
    """What one process makes of it."""
    return pretrain(
        SkeletonStore.open(folder / "store"), "half", CONFIG, folder / "one", progress=False
    )


def halves(state):
    """A step in which each half of the batch meets the model alone, in one process: the plain twin of local statistics."""
    model, (_, view_q, view_k, _) = state.model, state.batches(0)
    follow(model.key, model.query, model.momentum)
    queues, losses, new = {d: queue.keys.clone() for d, queue in model.queues.items()}, [], []
    for q, k in zip(view_q.tensor_split(2), view_k.tensor_split(2), strict=True):
        keys, queries = (
            dict(zip("stg", model.key(k), strict=True)),
            dict(zip("stg", model.query(q), strict=True)),
        )
        losses.append(model.loss(queries, keys, queues).loss)
        new.append(keys)
    (sum(losses) / 2).backward()
    for d, queue in model.queues.items():
        queue.push(torch.cat([keys[d] for keys in new]))
    state.losses["loss"] = sum(losses).item() / 2


@pytest.mark.parametrize("stats", ["local", "sync"])
def test_two_ranks_compute_what_one_process_does(folder, stats):
    first, second = (torch.load(folder / f"{stats}-{r}.pt", weights_only=False) for r in (0, 1))
    state = awake(SkeletonStore.open(folder / "store"), stats)
    halves(state) if stats == "local" else state.step()
    one = outcome(state)
    assert abs(first["loss"] - one["loss"]) < 1e-5 * one["loss"] and first["loss"] == second["loss"]
    assert (first["gradient"] - one["gradient"]).norm() < 1e-5 * one[
        "gradient"
    ].norm() and torch.equal(first["gradient"], second["gradient"])
    for name, value in first["model"].items():
        if stats == "sync" or "running" not in name:  # local running statistics are each rank's own
            assert torch.equal(value, second["model"][name]), name
        if name.startswith("queues"):
            torch.testing.assert_close(value, one["model"][name], rtol=0, atol=1e-5)
        if stats == "sync" and "running" in name:
            torch.testing.assert_close(value, one["model"][name], rtol=1e-5, atol=1e-5)


def test_synchronised_normalisation(folder):
    """Eight samples on two ranks, against one process."""
    parts = [torch.load(folder / f"norm-{r}.pt") for r in (0, 1)]
    torch.manual_seed(0)
    x, target = torch.randn(2, 8, 4, 5, 6, dtype=torch.double)
    x = (3 + x).requires_grad_()
    norm = torch.nn.BatchNorm2d(4).double()
    y = norm(x)
    (y * target).sum().backward()
    for name, one in {"y": y.detach(), "x": x.grad}.items():
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), one)
    for name, one in {"weight": norm.weight.grad, "bias": norm.bias.grad}.items():
        torch.testing.assert_close(sum(part[name] for part in parts), one)
    for part in parts:
        torch.testing.assert_close(part["mean"], norm.running_mean)
        torch.testing.assert_close(part["var"], norm.running_var)


def test_features_are_those_of_one_process(folder):
    first, second = (torch.load(folder / f"clues-{r}.pt") for r in (0, 1))
    one = clues(SkeletonStore.open(folder / "store"))
    for kind in ("spatial", "temporal"):
        assert torch.equal(first[kind], second[kind])
        torch.testing.assert_close(
            first[kind], one[kind], rtol=1e-4, atol=1e-4
        )  # statistics were taken in another order


def test_two_then_one_then_two_ranks(folder, one):
    """A run that two ranks began: one process goes on with it, then two again, and it is the run of one process."""
    store, run = SkeletonStore.open(folder / "store"), folder / "run"
    assert len(Run.open(run).metrics()) == 3  # stopped in the fourth epoch
    for epochs in (2, 3):  # forget one or two of them again
        for late in sorted((run / "checkpoint").iterdir())[1:]:
            late.rename(folder / f"set-aside-{epochs}")
        words = [
            "pretrain",
            "--store",
            store.path,
            "--split",
            "half",
            "--out",
            run,
            *SIZES,
            "--epochs",
            4,
            "--batch-stats",
            "sync",
            "--resume",
        ]
        done = program(*words, env=ENVIRONMENT) if epochs == 2 else torchrun("-m", "scdnet", *words)
        assert done.returncode == 0 and "going on after step" in done.stderr, done.stderr
        assert "batch normalisation" not in done.stderr  # statistics are shared: nothing changes
    two, alone = Run.open(run).metrics(), Run.open(one).metrics()
    starts = Run.open(run).starts()
    assert [start["ranks"] for start in starts] == [2, 1, 2] and starts[0]["step"] == 0
    assert all(start["machine"]["torch"] == torch.__version__ for start in starts)
    assert (
        two.epoch.tolist() == [1, 2, 3, 4]
        and np.allclose(two.loss[:2], alone.loss[:2], atol=1e-2)
        and np.isfinite(two.loss).all()
    )


def test_other_statistics_are_another_run(folder):
    done = scdnet(
        "pretrain",
        "--store",
        folder / "store",
        "--split",
        "half",
        "--out",
        folder / "run",
        *SIZES,
        "--epochs",
        4,
        "--resume",
    )
    assert done.returncode == 2 and "--batch-stats (was sync, now local)" in done.stderr


def test_another_number_of_ranks_is_told_where_it_matters(folder, tmp_path):
    """With local statistics one process and two are different functions."""
    words = ["pretrain", "--store", folder / "store", "--split", "half", "--out", tmp_path / "run"]
    words += [*SIZES, "--epochs", 2]
    assert program(*words, env=ENVIRONMENT).returncode == 0
    for late in sorted((tmp_path / "run/checkpoint").iterdir())[1:]:
        late.rename(tmp_path / "set-aside")
    done = torchrun("-m", "scdnet", *words, "--resume")
    told = [
        line for line in done.stderr.splitlines() if line.startswith("note: 2 ranks go on where")
    ]
    assert done.returncode == 0 and len(told) == 1 and "--batch-stats local" in told[0]


def process_of(number, parent):
    """The child of torchrun that has this rank."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={number}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_a_killed_rank_is_restarted_from_the_checkpoint(folder):
    words = [
        *TORCHRUN,
        "--max-restarts",
        "1",
        "-m",
        "scdnet",
        "pretrain",
        "--store",
        folder / "store",
        "--split",
        "half",
        "--out",
        folder / "killed",
        *SIZES,
        "--epochs",
        12,
    ]
    job = subprocess.Popen(
        [str(w) for w in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        while job.poll() is None and not list((folder / "killed").glob("checkpoint/step-*")):
            time.sleep(0.02)
        os.kill(process_of(1, job.pid), signal.SIGKILL)
        said, complained = job.communicate(timeout=200)
    finally:
        job.terminate()
        job.wait(60)
    assert job.returncode == 0 and "going on after step" in complained, complained
    assert said.count("epochs") == 1  # the table is printed once
    metrics = Run.open(folder / "killed").metrics()
    assert metrics.epoch.tolist() == list(range(1, 13)) and "launch" in json.loads(
        (folder / "killed/config.json").read_text()
    )
    weights = load_file(folder / "killed/encoder.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_restart_does_not_touch_the_run_of_somebody_else(folder, one):
    config = (one / "config.json").read_bytes()
    done = torchrun(
        "--max-restarts",
        1,
        "-m",
        "scdnet",
        "pretrain",
        "--store",
        folder / "store",
        "--split",
        "half",
        "--out",
        one,
        *SIZES,
        "--epochs",
        4,
        "--batch-stats",
        "sync",
    )
    assert done.returncode == 1 and [*set(ours(done.stderr))] == [
        f"scdnet: {one}: exists already; --resume goes on with it, --overwrite replaces it"
    ]
    assert (one / "config.json").read_bytes() == config


@pytest.mark.parametrize(
    "words, complaint",
    [
        (
            ["pretrain", "--split", "half", *SIZES, "--batch-size", 7],
            "batch_size is 7, expected a multiple of the 2 ranks, at least 4",
        ),
        (["synthesize"], "synthesize works in one process; start it without torchrun"),
    ],
    ids=["share", "command"],
)
def test_a_mistake_is_told_once(folder, words, complaint):
    where = ["--store", folder / "store"] if words[0] == "pretrain" else []
    done = torchrun("-m", "scdnet", *words, *where, "--out", folder / "never")
    assert done.stdout == "" and ours(done.stderr) == [f"scdnet: {complaint}"], done.stderr
    assert "exitcode  : 2" in done.stderr and not (folder / "never").exists()


def test_ranks_share_a_protocol(folder, one):
    words = [
        "evaluate",
        "knn",
        "--run",
        one,
        "--store",
        folder / "store",
        "--split",
        "half",
        "--device",
        "cpu",
        "--out",
    ]
    two, alone = (
        torchrun("-m", "--", "scdnet", *words, folder / "two.json"),
        program(*words, folder / "one.json", env=ENVIRONMENT),
    )
    assert two.returncode == alone.returncode == 0 and two.stdout == alone.stdout, two.stderr
    results = [json.loads((folder / name).read_text()) for name in ("two.json", "one.json")]
    for result in results:
        for name in ("hours", "date", "predictions"):  # two clocks, two files
            result.pop(name, None)
        result["machine"].pop("date", None)
    assert results[0] == results[1]

"""The command line: exit codes, one line on stderr for a mistake, and nothing half-written."""

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_mistake, program, scdnet, table, tree
from small import to_official

from scdnet.app.cli.evaluate import PROTOCOLS
from scdnet.app.cli.main import COMMANDS, main, parse
from scdnet.app.cli.parsing import outcome
from scdnet.data.layouts import KINECT20, NTU25
from scdnet.data.mannequin.ntu_files import synthesize
from scdnet.data.mannequin.perform import MannequinConfig
from scdnet.data.store import SkeletonStore
from scdnet.model.encoder import EncoderConfig, scd_encoder
from scdnet.training.config import PRESETS
from scdnet.training.moco import MomentumContrast
from scdnet.training.run import Run
from scdnet.utils.files import InputError

RAW = "S001C001P001R001A001.skeleton"


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """Three actions by eight people, half of whom train."""
    config = MannequinConfig(actions=(5, 7, 58), subjects=(1, 2, 3, 4, 5, 6, 7, 8), takes=2)
    return synthesize(
        tmp_path_factory.mktemp("raw") / "raw", config=config, workers=1, progress=False
    )


@pytest.fixture(scope="session")
def store(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "store"
    assert main(["prepare", str(raw), "--out", str(out), "--workers", "1"]) == 0
    return out


# what works


def test_help_is_quick_and_names_every_command():
    start = time.perf_counter()
    done = program("--help")
    assert done.returncode == 0 and time.perf_counter() - start < 5
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    "words",
    [[name] for name in COMMANDS if name != "evaluate"]
    + [["evaluate", name] for name in PROTOCOLS],
    ids=" ".join,
)
def test_each_command_has_help(words):
    done = scdnet(*words, "--help")
    assert (
        done.returncode == 0
        and "usage: scdnet " + " ".join(words) in done.stdout
        and "Example" in done.stdout
    )


@pytest.mark.parametrize(
    "words",
    [[]] + [[name] for name in COMMANDS] + [["evaluate", name] for name in PROTOCOLS],
    ids=" ".join,
)
def test_help_fits_a_screen_and_shows_one_example(words, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    assert main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\n") <= 45 and shown.count("Example: ") == 1
    usage, *lines = shown.splitlines()
    assert usage.startswith("usage: scdnet") and max(map(len, lines)) <= 100


@pytest.mark.parametrize("words", [["pretrain"], ["ablate"]], ids=" ".join)
def test_help_names_every_field_of_the_configuration(words, monkeypatch, capsys):
    def fields(config, at="--"):
        return [
            f
            for name, value in asdict(config).items()
            for f in (
                [f"{at}{name}.{inner}" for inner in value]
                if isinstance(value, dict)
                else [f"{at}{name}"]
            )
        ]

    wanted = {name.replace("_", "-") for name in fields(PRESETS["paper"])}
    for page in ("--help", "--help-all"):
        assert main([*words, "--preset", "paper", page]) == 0
        shown = capsys.readouterr().out
        there = {word.strip(",") for word in shown.split() if word.startswith("--")}
        assert wanted <= there | {re.sub(r"(--(?:\w+\.)?)no-", r"\1", word) for word in there}, page
        assert ("--queue-size 8192" in shown) == (page != "--help-all")


def test_help_does_not_call_a_number_of_the_demo_the_papers():
    paper, demo = PRESETS["paper"], PRESETS["demo"]
    for one, other in (
        (paper, demo),
        *((getattr(paper, part), getattr(demo, part)) for part in ("encoder", "view", "optim")),
    ):
        comments = dict(
            re.findall(r"^    (\w+): .*# (.*)$", inspect.getsource(type(one)), re.MULTILINE)
        )
        wrong = {
            name: comment
            for name, comment in comments.items()
            if re.search(r"(^|[;,] )(paper|official)( \(.*\))?$", comment)
        }
        assert comments and not {
            name: comment
            for name, comment in wrong.items()
            if getattr(one, name) != getattr(other, name)
        }


def test_synthesize_same_seed_same_bytes(monkeypatch, tmp_path):
    import scdnet.data.mannequin.ntu_files

    few = MannequinConfig(actions=(5,), subjects=(1, 2))
    monkeypatch.setattr(
        scdnet.data.mannequin.ntu_files.synthesize,
        "__defaults__",
        tuple(
            few if isinstance(d, MannequinConfig) else d
            for d in scdnet.data.mannequin.ntu_files.synthesize.__defaults__
        ),
    )
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert (
            main(["synthesize", "--out", str(tmp_path / name), "--seed", seed, "--workers", "1"])
            == 0
        )
    bytes_of = {
        n: [p.read_bytes() for p in sorted((tmp_path / n).glob("*.skeleton"))] for n in "abc"
    }
    assert len(bytes_of["a"]) == 2 and bytes_of["a"] == bytes_of["b"] != bytes_of["c"]


def test_prepare_and_inspect(store):
    done = program("inspect", store)
    assert done.returncode == 0 and done.stderr == ""
    lines = {line.split("  ")[0]: line.split()[-1] for line in done.stdout.splitlines() if line}
    assert lines["clips"] == "48" and "split xsub" in lines and "handshaking" in done.stdout


def test_prepare_reads_a_zip_as_it_reads_a_folder(raw, store, tmp_path):
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        for file in raw.glob("*.skeleton"):
            archive.write(file, f"nturgb+d_skeletons/{file.name}")
    assert scdnet("prepare", tmp_path / "raw.zip", "--out", tmp_path / "store").returncode == 0
    assert SkeletonStore.open(tmp_path / "store").digest == SkeletonStore.open(store).digest


def test_skip_counts_the_bad_and_goes_on(raw, tmp_path):
    (tmp_path / RAW).write_text("garbage")
    done = scdnet("prepare", raw, tmp_path / RAW, "--out", tmp_path / "store", "--on-error", "skip")
    counts = table(done)
    assert counts["clips prepared"] == "48" and counts["skipped: bad, see skipped.csv"] == "1"
    assert RAW.removesuffix(".skeleton") in (tmp_path / "store" / "skipped.csv").read_text()


def test_overwrite_replaces(store, raw, tmp_path):
    out = tmp_path / "store"
    out.mkdir()
    (out / "old").touch()
    assert_mistake(scdnet("prepare", raw, "--out", out), out, "--overwrite")
    assert tree(out) == ["old"]
    assert scdnet("prepare", raw, "--out", out, "--overwrite").returncode == 0
    assert tree(out) == tree(store) and tree(tmp_path / "store.old") == [
        "old"
    ]  # not ours: never deleted
    assert scdnet("prepare", raw, "--out", out, "--overwrite").returncode == 0
    assert tree(out) == tree(store) and sorted(p.name for p in tmp_path.iterdir()) == [
        "store",
        "store.old",
    ]


# mistakes


def bad_sources(folder):
    (folder / "empty").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes" / "notes.txt").write_text("no recording")
    (folder / "broken.zip").write_bytes(b"PK\x03\x04 not a zip")


@pytest.mark.parametrize(
    "source", ["nowhere", "empty", "notes", "broken.zip"]
)  # damaged files: tests/test_formats_*.py
def test_prepare_refuses(source, tmp_path):
    bad_sources(tmp_path)
    before = tree(tmp_path)
    assert_mistake(scdnet("prepare", tmp_path / source, "--out", tmp_path / "store"), source)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [
        ["prepare", "RAW", "--out", "new", "--workers", "0"],
        ["prepare", "--out", "new"],
        ["inspect", "nowhere"],
        ["inspect", "RAW"],
        ["synthesize", "--out", "RAW"],
    ],
    ids=" ".join,
)
def test_wrong_arguments(words, raw, tmp_path):
    assert_mistake(scdnet(*[raw if w == "RAW" else w for w in words], cwd=tmp_path))
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["prepare"],
        ["prepare", "raw", "--out", "x", "--colour", "red"],
        ["synthesize", "--out", "x", "--seed", "one"],
        ["prepare", "raw", "--out", "x", "--on-error", "explode"],
        ["evaluate"],
        ["evaluate", "linearly"],
        ["pretrain", "--store", "s", "--out", "x"],
        ["pretrain", "--store", "s", "--out", "x", "--preset", "demo", "--encoder.width", "wide"],
    ],
    ids=" ".join,
)
def test_words_that_make_no_sense(words, tmp_path):
    assert_mistake(scdnet(*words, cwd=tmp_path))
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    "option, value",
    [("--epochs", "0"), ("--queue-size", "0"), ("--optim.lr", "-1"), ("--view.p", "2")],
)
def test_a_value_out_of_bounds_is_named_as_it_is_typed(option, value, tmp_path):
    words = ["pretrain", "--store", "s", "--out", tmp_path / "x", "--preset", "demo"]
    assert_mistake(scdnet(*words, option, value), f"{option} is")


def test_damaged_store(store, tmp_path):
    for name, damage in {
        "meta.json": b"{",
        "clips.csv": b"name\n",
        "frames.npy": b"\x93NUMPY",
    }.items():
        copy = tmp_path / name
        shutil.copytree(store, copy)
        (copy / name).write_bytes(damage)
        assert_mistake(scdnet("inspect", copy), name)


# the rest of the exit codes


@pytest.mark.parametrize(
    "error, code, shows_line",
    [
        (InputError("x"), 2, True),
        (FileNotFoundError(2, "No such file", "a"), 2, True),
        (FileExistsError("b"), 2, True),
        (OSError(28, "No space", "c"), 1, True),
        (FloatingPointError("loss"), 1, True),
        (ValueError("bug"), 1, False),
        (KeyError("bug"), 1, False),
    ],
)
def test_outcome(error, code, shows_line):
    found, line = outcome(error)
    assert found == code and (line is not None) == shows_line


def test_a_full_disk_is_one_line_and_a_bug_a_traceback(monkeypatch, capsys, tmp_path):
    import scdnet.data.mannequin.ntu_files

    def fail(error):
        def synthesize(*_, **__):
            raise error

        monkeypatch.setattr(scdnet.data.mannequin.ntu_files, "synthesize", synthesize)
        return main(["synthesize", "--out", str(tmp_path / "x")]), capsys.readouterr().err

    assert fail(OSError(28, "No space left on device", "x")) == (
        1,
        "scdnet: x: No space left on device\n",
    )
    code, said = fail(RuntimeError("a bug"))
    assert code == 1 and said.startswith("Traceback") and "a bug" in said
    code, said = fail(KeyboardInterrupt())
    assert (code, said) == (130, "scdnet: interrupted\n")


@pytest.mark.parametrize("sent, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_from_outside(sent, code, tmp_path):
    """A run that is stopped ends with the signal's code and takes its unfinished folder with it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scdnet", "synthesize", "--out", tmp_path / "raw", "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(200):
        if tree(tmp_path):
            break
        time.sleep(0.05)
    process.send_signal(sent)
    output, said = process.communicate(timeout=60)
    assert process.returncode == code and output == "" and "Traceback" not in said, said
    assert tree(tmp_path) == []


# learning and judging

TINY = [
    "--preset",
    "demo",
    "--epochs",
    "2",
    "--batch-size",
    "8",
    "--queue-size",
    "16",
    "--encoder.frames",
    "16",
    "--encoder.channels",
    "8",
    "--encoder.width",
    "16",
    "--encoder.projection",
    "8",
    "--save-every",
    "1",
]


@pytest.fixture(scope="session")
def run(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    done = scdnet("pretrain", "--store", store, "--split", "xsub", "--out", out, *TINY)
    assert done.returncode == 0, done.stderr
    assert "contrastive accuracy" in done.stdout
    return out


@pytest.fixture(scope="session")
def other_store(tmp_path_factory):
    """A store of another layout: twenty joints, one person."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("other") / "kinect20"
    SkeletonStore.from_arrays(
        path,
        [rng.normal(size=(30, 20, 3)).astype(np.float32) for _ in range(8)],
        [0, 1] * 4,
        KINECT20,
        names=list("abcdefgh"),
        splits={"xsub": (list("abcd"), list("efgh"))},
    )
    return path


@pytest.fixture(scope="session")
def foreign(store, tmp_path_factory):
    """A store of the run's layout and clips, but of people twice as large."""
    own, path = SkeletonStore.open(store), tmp_path_factory.mktemp("foreign") / "foreign"
    SkeletonStore.from_arrays(
        path,
        [2 * clip for clip in own],
        own.labels,
        own.skeleton,
        own.names,
        "ntu60",
        own.classes,
        {c: own.clips[c] for c in ("subject", "camera", "setup", "replication")},
    )
    return path


def test_a_run_holds_what_the_contract_says(run):
    assert {"config.json", "metrics.jsonl", "checkpoint", "encoder.safetensors"} <= set(
        os.listdir(run)
    )
    config = json.loads((run / "config.json").read_text())["config"]
    assert (
        config["epochs"] == 2
        and config["encoder"]["width"] == 16
        and len(Run.open(run).metrics()) == 2
    )


def test_resume_refuses_other_options_and_keeps_the_run(run, store):
    before = {p: (run / p).stat().st_mtime_ns for p in tree(run)}
    words = ["pretrain", "--store", store, "--split", "xsub", "--out", run, *TINY]
    assert_mistake(scdnet(*words), run, "--overwrite")
    assert_mistake(scdnet(*words, "--resume", "--optim.lr", "0.5"), run, "optim.lr", "0.5")
    assert {p: (run / p).stat().st_mtime_ns for p in tree(run)} == before


def test_resume_alone_names_a_folder_that_is_no_run(store, tmp_path):
    words = ["pretrain", "--store", store, "--out", tmp_path / "typo", "--resume"]
    assert_mistake(scdnet(*words), "typo", "no run to go on with")


def test_resume_starts_anew_where_there_is_nothing(store, run, tmp_path):
    done = scdnet(
        "pretrain",
        "--store",
        store,
        "--split",
        "xsub",
        "--out",
        tmp_path / "run",
        *TINY,
        "--resume",
    )
    assert done.returncode == 0 and "anew" in done.stderr
    assert (tmp_path / "run" / "encoder.safetensors").read_bytes() == (
        run / "encoder.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    "sent, code, said", [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_stopped_run_says_how_it_goes_on(sent, code, said, run, store, tmp_path, monkeypatch):
    from scdnet.training.pretrain import Trainer

    words, step = (
        ["pretrain", "--store", store, "--split", "xsub", "--out", tmp_path / "run", *TINY],
        Trainer.step,
    )

    def stopped(state):
        if state.steps_done == 4:  # of six
            os.kill(os.getpid(), sent)
        return step(state)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopped)
        done = scdnet(*words)
    assert (done.returncode, done.stdout) == (code, "")
    last = f"scdnet: {said}; the same command with --resume goes on from the last checkpoint"
    epochs, message = done.stderr.splitlines()[:-1], done.stderr.splitlines()[-1]
    assert message == last and [line.split(":")[0] for line in epochs] == ["epoch 1 of 2"]
    assert scdnet(*words, "--resume").returncode == 0
    assert (tmp_path / "run" / "encoder.safetensors").read_bytes() == (
        run / "encoder.safetensors"
    ).read_bytes()


SHORT = {
    "linear": ["--epochs", "5"],
    "knn": [],
    "finetune": ["--epochs", "1"],
    "semi": ["--epochs", "1", "--fraction", "0.5", "--draws", "2"],
    "transfer": ["--epochs", "1"],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_evaluate(protocol, run, store, foreign, tmp_path):
    words = [
        "evaluate",
        protocol,
        "--run",
        run,
        "--store",
        foreign if protocol == "transfer" else store,
        "--split",
        "xsub",
        *SHORT[protocol],
    ]
    baselines = ["untrained", "raw"] if protocol in ("linear", "knn") else ["untrained"]
    done = scdnet(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "features",
        "pretrained",
        *baselines,
        "chance",
    ]
    end = {
        "linear": "-epochs5",
        "knn": "",
        "semi": "-epochs1-fraction0.5-draws2",
        "transfer": "-epochs1-on-foreign",
        "finetune": "-epochs1",
    }
    name = f"{protocol}-xsub-demo-seed0{end[protocol]}"
    result = json.loads((run / "eval" / f"{name}.json").read_text())
    assert {"protocol", "split", "top1", "top5", "best_top1", "seed", "config", "store"} <= set(
        result
    )
    assert (
        result["protocol"] == protocol
        and 0 <= result["top1"] <= 100
        and list(result["baselines"]) == baselines
    )
    assert (result["top5"] is None) == (protocol == "knn")

    out = tmp_path / "result.json"
    assert scdnet(*words, "--out", out, "--no-baselines").returncode == 0
    assert "baselines" not in json.loads(out.read_text())
    assert_mistake(scdnet(*words, "--out", out), out, "--overwrite")


def test_the_same_draws_again_from_their_index(run, store, tmp_path):
    words = [
        "evaluate",
        "semi",
        "--run",
        run,
        "--store",
        store,
        "--split",
        "xsub",
        "--epochs",
        "1",
        "--no-baselines",
    ]
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert scdnet(*words, "--fraction", "0.5", "--draws", "2", "--out", first).returncode == 0
    assert scdnet(*words, "--index", first.with_suffix(".csv"), "--out", second).returncode == 0
    one, two = (json.loads(path.read_text()) for path in (first, second))
    assert one["draws"] == two["draws"] == 2
    assert [one[key] for key in ("top1", "top1_std", "fraction")] == [
        two[key] for key in ("top1", "top1_std", "fraction")
    ]
    assert first.with_suffix(".csv").read_text() == second.with_suffix(".csv").read_text()
    assert_mistake(
        scdnet(*words, "--fraction", "0.01", "--out", tmp_path / "third.json"),
        "one clip for each class",
    )


def test_three_streams(run, store, tmp_path):
    others = [tmp_path / stream for stream in ("bone", "motion")]
    for out in others:
        assert (
            scdnet(
                "pretrain",
                "--store",
                store,
                "--split",
                "xsub",
                "--out",
                out,
                *TINY,
                "--stream",
                out.name,
            ).returncode
            == 0
        )
    words = [
        "evaluate",
        "linear",
        "--run",
        run,
        "--store",
        store,
        "--split",
        "xview",
        "--epochs",
        "5",
        "--no-baselines",
    ]
    done = scdnet(*words, "--streams", *others)
    assert (
        done.returncode == 0
        and "note: the run was trained on split xsub of this store" in done.stderr
        and done.stderr.count("\n") == 1
    ), done.stderr
    result = json.loads((run / "eval" / "linear-xview-demo-seed0-epochs5-streams.json").read_text())
    assert set(result["streams"]) == {"joint", "bone", "motion"} and 0 <= result["top1"] <= 100
    assert_mistake(scdnet(*words, "--streams", others[0]), "motion")


def test_a_note_tells_of_test_clips_that_the_run_has_seen(run, store, foreign, tmp_path):
    words, opened = (
        [
            "evaluate",
            "knn",
            "--no-baselines",
            "--out",
            tmp_path / "knn.json",
            "--overwrite",
            "--store",
        ],
        SkeletonStore.open(store),
    )
    seen, test = (
        set(opened.split("xsub")[0]) & set(opened.split("xview")[1]),
        opened.split("xview")[1],
    )
    done = scdnet(*words, store, "--run", run, "--split", "xview")
    assert (
        done.stderr
        == f"note: the run was trained on split xsub of this store, with {len(seen)} of the {len(test)} test clips of xview\n"
        and seen
    )
    assert (
        scdnet(*words, foreign, "--run", run, "--split", "xview").stderr
        == "note: the run was trained on another store, store\n"
    )
    shutil.copytree(run, official := tmp_path / "official")
    config = json.loads((run / "config.json").read_text()) | {
        "store": None,
        "split": None,
        "official": {"name": "c.pth.tar", "digest": "0"},
    }
    (official / "config.json").write_text(json.dumps(config))
    for place in (store, foreign):
        done = scdnet(*words, place, "--run", official, "--split", "xview")
        assert (done.returncode, done.stderr) == (0, "")


def test_transfer_to_the_store_of_the_run_is_called_by_its_name(run, store, tmp_path):
    done = scdnet(
        "evaluate",
        "transfer",
        "--run",
        run,
        "--store",
        store,
        "--split",
        "xsub",
        "--epochs",
        "1",
        "--no-baselines",
        "--out",
        tmp_path / "transfer.json",
    )
    assert (
        done.returncode == 0
        and done.stderr
        == "note: the run was trained on this store, so this equals `evaluate finetune`\n"
    )


def test_a_recorded_name_is_the_data_set_of_a_result(run, raw, store, tmp_path):
    from scdnet.data.prepare import prepare

    named = prepare(
        raw, tmp_path / "store", workers=1, progress=False, dataset="mannequin"
    )  # as `scdnet demo` does
    assert (
        named.dataset == "mannequin"
        and named.digest == SkeletonStore.open(store).digest
        and SkeletonStore.open(store).dataset == "store"
    )
    assert (
        scdnet(
            "evaluate",
            "knn",
            "--run",
            run,
            "--store",
            named.path,
            "--split",
            "xsub",
            "--no-baselines",
            "--out",
            tmp_path / "knn.json",
        ).returncode
        == 0
    )
    assert json.loads((tmp_path / "knn.json").read_text())["store"]["dataset"] == "mannequin"


def test_inspect_tells_what_is_seldom_meant(tmp_path):
    rng, loose = (
        np.random.default_rng(0),
        replace(NTU25, bones=tuple(bone for bone in NTU25.bones if 3 not in bone)),
    )
    plain = rng.normal(size=(8, 25, 3)).astype(np.float32)
    for name, third, layout, said in (
        ("plain", plain[..., 2:], NTU25, []),
        ("loose", plain[..., 2:], loose, ["no bone touches head"]),
        ("constant", 0.5 + 0 * plain[..., 2:], NTU25, ["coordinate 3 is 0.5 everywhere"]),
        ("score", rng.random((8, 25, 1)), NTU25, ["coordinate 3 lies in 0 to 1"]),
        (
            "both",
            0 * plain[..., 2:],
            loose,
            ["no bone touches head", "coordinate 3 is 0 everywhere"],
        ),
    ):
        SkeletonStore.from_arrays(
            tmp_path / name, [np.concatenate([plain[..., :2], third], axis=2)], [0], layout
        )
        done = scdnet("inspect", tmp_path / name)
        lines = done.stderr.splitlines()
        assert (
            done.returncode == 0
            and len(lines) == len(said)
            and all(
                line.startswith("note: ") and part in line
                for line, part in zip(lines, said, strict=True)
            )
        ), done.stderr


def test_inspect_says_which_axis_it_guessed(store, tmp_path):
    words = ["inspect", store, "--overwrite", "--html", tmp_path / "page.html"]
    assert "drawn with z up (guessed; --up changes it)" in scdnet(*words).stdout
    assert "drawn with" not in scdnet(*words, "--up", "y").stdout


@pytest.mark.parametrize(
    "words, choices",
    [
        (["results", "--table", "9"], "'all', '1', '2', '3', '4', '5', '6', '7', '8'"),
        (["inspect", "s", "--up", "x"], "'guess', 'y', '-y', 'z'"),
        (
            ["evaluate", "knn", "--run", "r", "--store", "s", "--split", "x", "--preset", "large"],
            "'run', 'small', 'demo', 'paper'",
        ),
    ],
    ids=lambda v: v[0],
)
def test_choices_are_told_in_their_order(words, choices, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert_mistake(scdnet(*words), f"Expected one of ({choices}).")


def test_the_folder_of_a_demo_is_no_run(run, store, tmp_path):
    shutil.copytree(run, tmp_path / "demo" / "run")
    for words in (
        ["evaluate", "knn", "--split", "xsub"],
        ["embed", "--out", tmp_path / "clues.npz"],
        ["figures", "--out", tmp_path / "figures"],
    ):
        assert_mistake(
            scdnet(*words, "--run", tmp_path / "demo", "--store", store),
            f"{tmp_path / 'demo'}: not a run",
            tmp_path / "demo" / "run",
        )
    assert tree(tmp_path) == ["demo", *(f"demo/{name}" for name in tree(tmp_path / "demo"))]


def test_embed_refuses_other_names_and_devices(run, store, tmp_path):
    words = ["embed", "--run", run, "--store", store, "--out"]
    assert_mistake(scdnet(*words, tmp_path / "clues.txt"), tmp_path / "clues.txt", ".npz")
    assert (
        scdnet(*words, tmp_path / "clues.npz", "--device", "gpu").stderr
        == "scdnet: device 'gpu': unknown, expected auto, cpu, cuda or cuda:N\n"
    )
    assert tree(tmp_path) == []


def test_embed(run, store, tmp_path):
    done = scdnet("embed", "--run", run, "--store", store, "--out", tmp_path / "clues.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "clues.npz") as clues:
        assert clues["spatial"].shape == clues["temporal"].shape == (48, 16)
        assert list(clues["name"]) == SkeletonStore.open(store).names and clues["label"].shape == (
            48,
        )
    assert tree(tmp_path) == ["clues.npz"]


LEARNING = [
    ["pretrain", "--store", "STORE", "--split", "xsub", "--out", "new", *TINY],
    ["evaluate", "linear", "--run", "RUN", "--store", "STORE", "--split", "xsub"],
    ["evaluate", "knn", "--run", "RUN", "--store", "STORE", "--split", "xsub"],
    ["evaluate", "semi", "--run", "RUN", "--store", "STORE", "--split", "xsub"],
    ["evaluate", "transfer", "--run", "RUN", "--store", "FOREIGN", "--split", "xsub"],
    ["embed", "--run", "RUN", "--store", "STORE", "--out", "new.npz"],
]
WRONG = {
    "split": ("--split", "ysub", "ysub"),
    "store": ("--store", "nowhere", "nowhere"),
    "run": ("--run", "nowhere", "nowhere"),
    "layout": ("--store", "OTHER", "20 joints"),
    "device": ("--device", "toaster", "toaster"),
    "epochs": ("--epochs", "0", "epochs"),
    "batch": ("--batch-size", "1000", "batch"),
    "heads": ("--encoder.heads", "3", "heads"),
    "rate": ("--optim.lr", "nan", "optim.lr"),
    "decay": ("--optim.weight-decay", "-1", "--optim.weight-decay"),
    "warm-up": ("--optim.warmup", "1.5", "optim.warmup"),
    "drops": ("--optim.drops", "2", "optim.drops"),
    "queue": ("--queue-size", "9" * 30, "--queue-size"),
    "seed": ("--seed", "-1", "seed"),
    "temperature": ("--temperature", "nan", "temperature"),
}
PRETRAIN = ("batch", "queue", "heads", "rate", "decay", "warm-up", "drops", "seed", "temperature")
CASES = [
    (words, wrong)
    for words in LEARNING
    for wrong in WRONG
    if (WRONG[wrong][0] in words or wrong in ("device", "epochs", *PRETRAIN))
    and not (wrong == "epochs" and (words[0] == "embed" or words[1] == "knn"))
    and not (wrong in PRETRAIN and words[0] != "pretrain")
    and not (wrong == "layout" and words[0] == "pretrain")
]


@pytest.mark.parametrize(
    "words, wrong",
    CASES,
    ids=lambda v: v if isinstance(v, str) else " ".join(w for w in v[:2] if w[0] != "-"),
)
def test_learning_refuses(words, wrong, run, store, foreign, other_store, tmp_path):
    flag, value, said = WRONG[wrong]
    words = (
        [*words, flag, value]
        if flag not in words
        else [
            value if before == flag else w for before, w in zip(["", *words], words, strict=False)
        ]
    )
    places = {"STORE": store, "RUN": run, "FOREIGN": foreign, "OTHER": other_store}
    shutil.rmtree(run / "eval", ignore_errors=True)
    before = tree(run)
    assert_mistake(scdnet(*[places.get(w, w) for w in words], cwd=tmp_path), said)
    assert tree(tmp_path) == [] and tree(run) == before


@pytest.fixture(scope="session")
def lopsided(tmp_path_factory):
    """A store of the run's layout whose splits cannot be judged."""
    rng, names = np.random.default_rng(0), list("abcdefgh")
    clips = [rng.normal(size=(30, 2, 25, 3)).astype(np.float32) for _ in names]
    splits = {"strangers": (names[:4], names[4:]), "nobody": (names, [])}
    path = tmp_path_factory.mktemp("lopsided") / "store"
    SkeletonStore.from_arrays(
        path,
        clips,
        [0, 0, 1, 1, 0, 1, 2, 2],
        NTU25,
        names=names,
        classes=["walk", "sit", "fall"],
        splits=splits,
    )
    return path


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "split, said", [("strangers", "class 'fall'"), ("nobody", "8 training and 0 test clips")]
)
def test_a_split_that_cannot_be_judged_is_refused(protocol, split, said, run, lopsided, capsys):
    code = main(
        ["evaluate", protocol, "--run", str(run), "--store", str(lopsided), "--split", split]
    )
    out, err = capsys.readouterr()
    assert (
        code == 2
        and out == ""
        and said in err
        and len(err.splitlines()) == 1
        and err.startswith("scdnet:")
    ), err


def test_checkpoint_of_another_shape(run, store, tmp_path):
    wider = tmp_path / "wider"
    shutil.copytree(run, wider)
    config = json.loads((wider / "config.json").read_text())
    config["config"]["encoder"]["width"] = 32
    (wider / "config.json").write_text(json.dumps(config))
    for words in (
        ["embed", "--out", tmp_path / "clues.npz"],
        ["evaluate", "knn", "--split", "xsub"],
    ):
        assert_mistake(scdnet(*words, "--run", wider, "--store", store), "encoder.safetensors")
    (wider / "encoder.safetensors").write_bytes(b"garbage")
    assert_mistake(
        scdnet("evaluate", "knn", "--split", "xsub", "--run", wider, "--store", store),
        "encoder.safetensors",
    )
    (wider / "config.json").write_text("{")
    assert_mistake(
        scdnet("evaluate", "knn", "--split", "xsub", "--run", wider, "--store", store),
        "config.json",
    )
    assert not (wider / "eval").exists() and not (tmp_path / "clues.npz").exists()


def test_a_loss_that_is_not_finite_is_one_line(store, tmp_path):
    done = scdnet(
        "pretrain",
        "--store",
        store,
        "--split",
        "xsub",
        "--out",
        tmp_path / "run",
        *TINY,
        "--optim.name",
        "sgd",
        "--optim.lr",
        "1e30",
    )
    assert (
        done.returncode == 1
        and done.stderr.startswith("scdnet: loss is nan at step")
        and done.stderr.count("\n") == 1
    ), done.stderr


@pytest.mark.parametrize(
    "name, content",
    [("garbage.pth.tar", b"garbage"), ("empty.npz", b""), ("nowhere.pth.tar", None)],
)
def test_import_official_refuses_files_that_are_none(name, content, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = tree(tmp_path)
    assert_mistake(scdnet("import-official", tmp_path / name, "--out", tmp_path / "run"), name)
    assert tree(tmp_path) == before


def test_import_official_refuses_another_layout(tmp_path):
    torch.save({"state_dict": {"conv.weight": torch.zeros(3, 3)}}, tmp_path / "other.pth.tar")
    assert_mistake(
        scdnet("import-official", tmp_path / "other.pth.tar", "--out", tmp_path / "run"),
        "other.pth.tar",
        "expected the official",
    )
    torch.save({"weight": [1, 2], "code": Path("x")}, tmp_path / "pickle.pth.tar")
    assert_mistake(
        scdnet("import-official", tmp_path / "pickle.pth.tar", "--out", tmp_path / "run"),
        "pickle.pth.tar",
    )
    assert tree(tmp_path) == ["other.pth.tar", "pickle.pth.tar"]


def test_import_official_overwrites_a_run_and_keeps_what_is_none(tmp_path, monkeypatch):
    model = MomentumContrast(
        scd_encoder(
            EncoderConfig(frames=16, channels=8, width=16, heads=2, projection=4),
            KINECT20,
            persons=1,
        ),
        queue_size=8,
        projection=4,
    )
    old = to_official(model.state_dict())
    monkeypatch.setattr("scdnet.training.official.read_checkpoint", lambda path: old)
    checkpoint, run = tmp_path / "c.npz", tmp_path / "run"
    checkpoint.write_bytes(b"")
    words = ["import-official", checkpoint, "--out", run, "--skeleton", "kinect20"]
    words += ["--heads", 2, "--stream", "bone"]
    assert scdnet(*words).returncode == 0
    assert Run.open(run).encoder().format.stream == "bone"  # not the joints (fault 9)
    assert_mistake(scdnet(*words), run, "--overwrite")
    (run / "eval").mkdir()  # a run's own: it goes
    assert scdnet(*words, "--overwrite").stderr == "" and tree(tmp_path) == [
        "c.npz",
        "run",
        "run/config.json",
        "run/encoder.safetensors",
    ]
    (run / "diary.txt").write_text("dear diary")
    done = scdnet(*words, "--overwrite")
    assert done.returncode == 0 and "diary.txt" in done.stderr and "kept as" in done.stderr
    assert (tmp_path / "run.old/diary.txt").read_text() == "dear diary" and tree(run) == [
        "config.json",
        "encoder.safetensors",
    ]


@pytest.mark.skipif("SCDNET_DATA" not in os.environ, reason="SCDNET_DATA is not set")
def test_import_official(store, tmp_path):
    checkpoint = Path(os.environ["SCDNET_DATA"]) / "official" / "checkpoint_small.npz"
    done = scdnet("import-official", checkpoint, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert (
        scdnet(
            "embed", "--run", tmp_path / "run", "--store", store, "--out", tmp_path / "clues.npz"
        ).returncode
        == 0
    )
    assert_mistake(
        scdnet("import-official", checkpoint, "--out", tmp_path / "new", "--skeleton", "kinect20"),
        "checkpoint_small.npz",
        "25 joints",
    )


# what the command line says of itself


def test_version():
    import scdnet as package

    assert scdnet("--version").stdout == f"scdnet {package.__version__}\n"


def test_quiet_leaves_errors_and_results(run, store, tmp_path):
    words = [
        "evaluate",
        "knn",
        "--run",
        run,
        "--store",
        store,
        "--split",
        "xview",
        "--no-baselines",
    ]
    loud = scdnet(*words, "--out", tmp_path / "a.json")
    quiet = scdnet(*words, "--out", tmp_path / "b.json", "--quiet")
    assert loud.stderr.startswith("note: ") and quiet.stderr == ""
    assert quiet.stdout == loud.stdout
    assert_mistake(scdnet(*words, "--out", tmp_path / "b.json", "--quiet"), "--overwrite")


def test_every_option_is_explained():
    """Each field has a comment behind it, or in the line above, where tyro looks for the help text."""
    parts = [type(getattr(PRESETS["demo"], part)) for part in ("encoder", "view", "optim")]
    silent = []
    for kind in (*COMMANDS.values(), *PROTOCOLS.values(), type(PRESETS["demo"]), *parts):
        if kind is COMMANDS["evaluate"]:
            continue  # its options are those of the protocols
        for owner in kind.__mro__[:-1]:
            source = inspect.getsource(owner)
            for name in owner.__annotations__:
                above, line = re.search(rf"(.*)\n    ({name}: .*)", source).groups()
                if "#" not in line and not above.strip().startswith("#"):
                    silent.append(f"{owner.__name__}.{name}")
    plain = ("encoder", "view", "optim", "stream")  # parts, and a name that says all
    assert not [name for name in silent if name.split(".")[1] not in plain]


def test_config_file_gives_the_values_of_another_run(run, store, tmp_path):
    words = ["pretrain", "--store", store, "--split", "xsub", "--out", tmp_path / "run"]
    done = scdnet(*words, "--config", run / "config.json", "--seed", "1", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    old, new = (json.loads((p / "config.json").read_text()) for p in (run, tmp_path / "run"))
    assert new["config"] == old["config"] | {"seed": 1, "epochs": 1}
    assert new["preset"] == old["preset"] == "demo"
    (tmp_path / "broken.json").write_text('{"config": {"epochs": "many"}}')
    for file, said in (("broken.json", "epochs"), ("nowhere.json", "nowhere.json")):
        assert_mistake(scdnet(*words, "--config", tmp_path / file), said)


def test_resume_alone_uses_the_options_of_the_run(run, store, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    done = scdnet("pretrain", "--store", store, "--out", tmp_path / "run", "--resume")
    assert done.returncode == 0 and "after step 6 of 6" in done.stderr, done.stderr
    assert (tmp_path / "run" / "config.json").read_text() == before
    words = ["pretrain", "--store", store, "--out", tmp_path / "run", "--resume", "--epochs", "3"]
    assert_mistake(scdnet(*words), "--epochs")


@pytest.mark.parametrize(
    "words, said",
    [
        (["pretrain", "--store", "nowhere", "--out", "r", "--preset", "demo"], "nowhere"),
        (["inspect", "s"], "inspect works in one process"),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_a_mistake_under_torchrun_is_one_line_too(words, said, tmp_path):
    done = program("torchrun", "--standalone", "--nproc-per-node", "2", *words, cwd=tmp_path)
    assert_mistake(done, said)


def test_results_of_other_options_have_other_names(run, store, tmp_path):

    (tmp_path / "i.csv").write_text("draw,name,class\n")
    opened = SkeletonStore.open(store)
    common = ["--run", str(run), "--store", str(store), "--split", "xsub"]
    variants = {
        "semi": [
            [],
            ["--seed", "1"],
            ["--preset", "paper"],
            ["--epochs", "2"],
            ["--fraction", "0.01"],
            ["--draws", "2"],
            ["--index", str(tmp_path / "i.csv")],
        ],
        "linear": [
            [],
            ["--seed", "1"],
            ["--preset", "paper"],
            ["--epochs", "2"],
            ["--streams", "a"],
        ],
        "knn": [[]],
        "finetune": [[], ["--streams", "a"]],
        "transfer": [[]],
    }
    names = [
        parse(["evaluate", protocol, *common, *words]).file(Run.open(run), opened).name
        for protocol, lists in variants.items()
        for words in lists
    ]
    assert len(names) == len(set(names)) == 16, names


def test_a_reader_that_leaves_is_no_error_message(store):
    done = subprocess.run(
        f"{sys.executable} -m scdnet inspect {store} | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == "" and done.stdout.startswith("clips")

"""Figures: labels that do not touch each other, files that come out the same, what is left out, and mistakes that are told in one line."""

import json
import shutil
from importlib.metadata import version
from itertools import combinations

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from commands import assert_mistake, scdnet, tree
from matplotlib.backends.backend_agg import FigureCanvasAgg
from small import TINY, random_walks

from scdnet.data.layouts import NTU25
from scdnet.data.mannequin.perform import sample_clip
from scdnet.data.store import SkeletonStore
from scdnet.evaluation.embedding import PairClues
from scdnet.evaluation.metrics import class_by_class
from scdnet.paper.album import encoded
from scdnet.paper.figures import (
    METHODS,
    clue_figure,
    clue_table,
    confusion_figure,
    figure1,
    gain_figure,
    label_rows,
    labels_figure,
    most_confused,
    paper_label_rows,
    radar,
    short,
)
from scdnet.paper.tables import table_of
from scdnet.training.cross_domain import CrossDomainLoss, loss_pairs
from scdnet.training.pretrain import pretrain
from scdnet.utils.files import shipped
from scdnet.utils.records import Result
from scdnet.views.masks import walk_scores
from scdnet.viz import draw
from scdnet.viz.explorers import MaskExplorer

ACTIONS = pd.read_csv(shipped("class_names.csv")).query("dataset == 'ntu'")["name"].tolist()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return random_walks(
        tmp_path_factory.mktemp("figures") / "store",
        half=(slice(16), slice(16, 32)),
        other=(slice(8, 24), slice(8)),
    )


@pytest.fixture(scope="module")
def bare(store, tmp_path_factory):
    """A run that nobody has judged."""
    return pretrain(
        store, "half", TINY, tmp_path_factory.mktemp("bare") / "run", preset="demo", progress=False
    )


@pytest.fixture(scope="module")
def judged(store, bare, tmp_path_factory):
    """The same run with results."""
    run = shutil.copytree(bare, tmp_path_factory.mktemp("judged") / "run")
    for words in (
        ["linear", "--epochs", "3"],
        ["finetune", "--epochs", "1"],
        ["semi", "--epochs", "1", "--fraction", "0.5", "--draws", "2"],
        ["knn", "--no-baselines"],
    ):
        done = scdnet(
            "evaluate", words[0], "--run", run, "--store", store.path, "--split", "half", *words[1:]
        )
        assert done.returncode == 0, done.stderr
    return run


# pictures


def boxes(texts, figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    return [
        (t.get_text(), t.get_window_extent(renderer))
        for t in texts
        if t.get_visible() and t.get_text().strip()
    ]


def touching(texts, figure):
    """Pairs of texts whose boxes overlap by more than a pixel."""
    return [
        (a, b)
        for (a, p), (b, q) in combinations(boxes(texts, figure), 2)
        if min(p.x1, q.x1) - max(p.x0, q.x0) > 1 and min(p.y1, q.y1) - max(p.y0, q.y0) > 1
    ]


def guesses(classes, clips=20, right=0.6):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(classes)), clips)
    return class_by_class(
        torch.tensor(
            np.where(
                rng.random(len(labels)) < right, labels, rng.integers(0, len(classes), len(labels))
            )
        ),
        torch.tensor(labels),
        classes,
    )


@pytest.mark.parametrize("classes", [10, 24, 60, 120])
def test_names_beside_a_matrix_do_not_touch(classes):
    figure = confusion_figure(guesses(ACTIONS[-classes:])["confusion"], "a title")
    left, right = figure.axes[:2]
    texts = [
        *left.get_xticklabels(),
        *left.get_yticklabels(),
        left.title,
        left.xaxis.label,
        *right.texts,
        right.xaxis.label,
        *right.get_xticklabels(),
        *figure.texts,
    ]
    assert not touching(texts, figure)
    assert all(0 <= box.x0 and box.x1 <= figure.bbox.width + 1 for _, box in boxes(texts, figure))


@pytest.mark.parametrize("classes", [2, 10, 24, 60, 120])
def test_names_beside_gains_do_not_touch(classes):
    rng = np.random.default_rng(0)
    before, after = (
        dict(zip(ACTIONS[-classes:], rng.integers(0, 101, classes).astype(float), strict=True))
        for _ in range(2)
    )
    figure = gain_figure(after, before, "a title")
    axis = figure.axes[0]
    texts = [*axis.get_yticklabels(), *axis.texts, axis.title]
    assert not touching(texts, figure)
    assert all(0 <= box.x0 and box.x1 <= figure.bbox.width + 1 for _, box in boxes(texts, figure))


@pytest.mark.parametrize(
    "results",
    [
        [],
        [
            Result(
                protocol="knn",
                dataset="NTU-60",
                split="xsub",
                top1=12.0,
                recipe="demo --epochs 110 --batch-size 32 --encoder.width 256",
            )
        ],
    ],
    ids=["paper", "ours"],
)
def test_names_of_tasks_do_not_touch(results):
    figure = figure1(table_of(("", result) for result in results))
    axis = figure.axes[0]
    assert not touching(
        [*axis.texts, *axis.get_yticklabels(), *figure.legends[0].get_texts()], figure
    )
    assert len(axis.lines) == len(METHODS) + len(results) and axis.get_ylim()[0] == (
        0 if results else 40
    )


def test_a_radar_of_zeros_and_of_hundreds():
    assert radar(pd.DataFrame({"a": [0.0, 0, 0]}, index=list("xyz"))).axes[0].get_ylim() == (0, 100)
    assert (
        radar(pd.DataFrame({"a": [100.0, 100, 100]}, index=list("xyz"))).axes[0].get_ylim()[0] < 100
    )


@pytest.mark.parametrize("columns", [2, 6, 20])
def test_a_radar_draws_every_column_in_a_colour_of_its_own(columns):
    tasks = pd.DataFrame({f"recipe {i}": [50.0, 60, 70] for i in range(columns)}, index=list("xyz"))
    lines = radar(tasks).axes[0].lines
    assert len(lines) == columns == len({str(line.get_color()) for line in lines})


def clues_of(*names):
    """Made-up maps of pairs of classes, whose points fill their panels."""
    rng, pairs = np.random.default_rng(0), []
    for i in range(0, len(names), 2):
        labels = np.repeat([i, i + 1], 40)
        maps = rng.uniform(size=(2, 80, 2))
        pairs.append(PairClues((i, i + 1), labels, *maps, (0.1, 0.2), (57.5, 42.5)))
    return pairs


def test_the_names_of_a_figure_of_clues_stay_inside_and_cover_no_point():
    names = [
        *ACTIONS[39:43],
        "put something inside a pocket or take it out",
        "playing with a phone",
    ]
    pairs = clues_of(*names)
    figure = clue_figure(pairs, names)
    legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    FigureCanvasAgg(figure).draw()
    assert len(legends) == len(pairs)
    for axis in figure.axes:
        for text in (axis.title, axis.xaxis.label, axis.yaxis.label):
            box = text.get_window_extent()
            assert not text.get_text() or (box.x0 >= 0 and box.x1 <= figure.bbox.width + 1)
        if legend := axis.get_legend():
            box = legend.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width + 1
            assert box.y0 >= axis.get_window_extent().y1 - 1  # above the panel


def test_a_figure_of_clues_and_its_table_say_the_same_number():
    pairs = clues_of("a", "b")
    said = [axis.get_xlabel().split(" %")[0] for axis in clue_figure(pairs, ["a", "b"]).axes]
    table = clue_table(pairs, ["a", "b"]).filter(like="neighbours").iloc[0]
    assert said == [f"{value:.1f}" for value in table] == ["57.5", "42.5"]


@pytest.mark.parametrize("loss", ["interactive", "both"])
def test_the_line_of_collapsed_clues_is_that_of_the_loss(loss):
    made = CrossDomainLoss(loss_pairs("stg", loss))
    levels = draw.collapse_levels(made, 128)
    assert levels["loss"]["equal embeddings"] == pytest.approx(made.collapsed(128))
    assert levels["accuracy"]["equal embeddings"] == 0
    same = torch.nn.functional.normalize(torch.ones(4, 8), dim=1)
    clues = dict.fromkeys("stg", same)
    queues = dict.fromkeys("stg", same[:1].expand(128, -1))
    found = made(clues, clues, queues)
    assert float(found.loss) == pytest.approx(made.collapsed(128), rel=1e-4)
    metrics = pd.DataFrame({"epoch": [1, 2], "loss": [30.0, 20], "accuracy": [0.0, 50]})
    axes = draw.curve(metrics, ("loss", "accuracy"), levels=levels).axes
    assert axes[0].lines[-1].get_ydata()[0] == pytest.approx(made.collapsed(128))


def sides(figure):
    """Mean place across of the left and of the right joints that are drawn in the first panel."""
    found = {draw.LEFT: [], draw.RIGHT: []}
    for dots in figure.axes[0].collections:
        for (x, _), colour in zip(
            np.ma.getdata(dots.get_offsets()), dots.get_edgecolors(), strict=False
        ):
            for side, places in found.items():
                if np.allclose(colour[:3], matplotlib.colors.to_rgb(side)):
                    places.append(x)
    return np.mean(found[draw.LEFT]), np.mean(found[draw.RIGHT])


def test_every_picture_has_the_left_side_on_the_left():
    clip = sample_clip(6, clean=True)
    for figure in (draw.pose(NTU25), draw.pose(NTU25, clip[0]), draw.masked(clip, NTU25, frames=1)):
        left, right = sides(figure)
        assert left < right


def test_joints_that_are_hidden_at_random_are_counted_and_named():
    elbow = NTU25.index("left elbow")
    explorer = MaskExplorer(k=8, chosen=[elbow])
    spatial, _ = explorer.masks()
    walks = walk_scores(NTU25, torch.tensor([[elbow]]), explorer.n)[0].tolist()
    facts = zip(NTU25.joints, spatial, walks, strict=True)
    names = [joint for joint, hidden, count in facts if hidden and not count]
    assert len(names) == 3 and "at random: 3 of them" in explorer.shown["text"]
    for figure in (draw.masked(sample_clip(6), NTU25, spatial, seeds=(elbow,)), explorer.figure()):
        said = [text.get_text() for text in figure.axes[1].get_yticklabels()]
        assert [text.removesuffix(" (at random)") for text in said if "random" in text] == names
    explorer.k = 5
    assert "at random" not in explorer.shown["text"]


def test_nothing_confused():
    found = {"a": {"a": 3}, "b": {"b": 1}}
    assert most_confused(found).empty
    assert any("no clip" in t.get_text() for t in confusion_figure(found).axes[1].texts)


def test_a_guess_that_is_no_class_of_the_test_side():
    found = {"a": {"c": 2, "a": 1}, "b": {"b": 1}}
    assert most_confused(found).iloc[0].tolist() == ["a", "c", 2, pytest.approx(200 / 3)]
    assert [t.get_text() for t in confusion_figure(found).axes[0].get_xticklabels()] == [
        "1",
        "2",
        "3",
    ]


@pytest.mark.parametrize(
    "name, said",
    [
        ("drop", "drop"),
        ("standing up (from sitting position)", "standing up"),
        ("(odd)", "(odd)"),
        ("x" * 40, "x" * 25 + "…"),
    ],
)
def test_short_names(name, said):
    assert short(name) == said


def test_the_curve_of_labels_survives_a_single_draw():
    result = Result(protocol="semi", split="xsub", top1=50.0, fraction=0.1, dataset="mine")
    rows = label_rows([result])
    assert (
        rows[["line", "share", "top1"]].to_numpy().tolist() == [["pretrained", 10, 50]]
        and rows["std"].isna().all()
    )
    assert len(labels_figure(pd.concat([rows, paper_label_rows()])).axes) == 3


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_picture_is_the_same_bytes(kind):
    if kind == "svg" and tuple(map(int, version("matplotlib").split(".")[:2])) < (3, 10):
        pytest.skip("before 3.10 matplotlib names clip paths by their place in memory")
    assert encoded(figure1(), kind) == encoded(figure1(), kind)


# the command


def test_a_run_without_results(bare, store, tmp_path):
    done = scdnet("figures", "--run", bare, "--store", store.path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    left_out = [
        line.removeprefix("left out: ")
        for line in done.stdout.splitlines()
        if line.startswith("left out: ")
    ]
    reasons = [reason.split()[0].strip(":,") for reason in left_out]
    assert reasons[:3] == ["labels", "confusion", "figure4"]
    assert set(reasons[3:]) <= {"neighbours"}  # as the clues come out
    assert f"scdnet evaluate semi --run {bare} --store {store.path} --split half" in done.stdout
    assert {"figure1.png", "index.html"} <= set(tree(tmp_path / "out")) and not list(
        (tmp_path / "out").glob("confusion*")
    )


def test_a_judged_run(judged, store, tmp_path):
    out = tmp_path / "out"
    done = scdnet("figures", "--run", judged, "--store", store.path, "--out", out, "--svg")
    assert done.returncode == 0, done.stderr
    made = {name.removesuffix(".png") for name in tree(out) if name.endswith(".png")}
    stems = {path.stem.split("-")[0]: path.stem for path in (judged / "eval").glob("*.json")}
    assert set(stems) == {"linear", "finetune", "semi", "knn"}
    wanted = {f"confusion-{stem}" for stem in stems.values()} | {"labels"}
    assert wanted | {f"gain-{stems[p]}" for p in ("linear", "finetune", "semi")} <= made
    knn = stems["knn"]
    assert f"gain-{knn}" not in made
    assert f"gain-{knn}: eval/{knn}.json holds no untrained baseline" in done.stdout
    assert {f"{name}.svg" for name in made} == {name for name in tree(out) if name.endswith(".svg")}
    page = (out / "index.html").read_text()
    assert (
        page.count("<img ") == len(made) and "scdnet figures --run" in page and "left out" in page
    )

    before = (out / "index.html").read_bytes()
    assert_mistake(
        scdnet("figures", "--run", judged, "--store", store.path, "--out", out), out, "--overwrite"
    )
    assert (out / "index.html").read_bytes() == before
    done = scdnet(
        "figures",
        "--run",
        judged,
        "--store",
        store.path,
        "--out",
        out,
        "--overwrite",
        "--split",
        "other",
    )
    assert (
        done.returncode == 0 and not list(out.glob("*.svg")) and not list(out.glob("confusion*"))
    ), done.stderr


def test_results_of_another_store_are_not_drawn(judged, store, tmp_path):
    run = shutil.copytree(judged, tmp_path / "run")
    for path in (run / "eval").glob("*.json"):
        path.write_text(
            json.dumps(
                json.loads(path.read_text())
                | {"store": {"name": "far", "dataset": "NTU-60", "digest": "other"}}
            )
        )
    done = scdnet("figures", "--run", run, "--store", store.path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (
        not list((tmp_path / "out").glob("confusion*"))
        and "no result on split half of this store" in done.stdout
    )


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"protocol": "linear"}',
        '{"protocol": "semi", "top1": 1, "store": {"name": "x", "digest": "y"}}',
        '{"protocol": "semi", "split": "half", "top1": "1", "store": {"name": "x", "digest": "y"}}',
    ],
)
def test_a_file_that_is_no_result(content, bare, store, tmp_path):
    run = shutil.copytree(bare, tmp_path / "run")
    (run / "eval").mkdir()
    (run / "eval" / "odd.json").write_text(content)
    assert_mistake(
        scdnet("figures", "--run", run, "--store", store.path, "--out", tmp_path / "out"),
        run / "eval" / "odd.json",
    )
    assert not (tmp_path / "out").exists()


def test_mistakes(bare, store, tmp_path):
    out = tmp_path / "out"
    other = SkeletonStore.from_arrays(
        tmp_path / "wide",
        [np.ones((20, 1, 25, 3), np.float32)] * 4,
        [0, 1] * 2,
        NTU25,
        names=list("abcd"),
        splits={"half": (["a", "b"], ["c", "d"])},
    )
    assert_mistake(
        scdnet("figures", "--run", tmp_path / "none", "--store", store.path, "--out", out),
        tmp_path / "none",
    )
    assert_mistake(
        scdnet("figures", "--run", bare, "--store", store.path, "--out", out, "--split", "xsub"),
        "xsub",
        "half",
    )
    assert_mistake(
        scdnet("figures", "--run", bare, "--store", other.path, "--out", out),
        other.path,
        "25 joints",
    )
    assert_mistake(
        scdnet(
            "figures",
            "--run",
            bare,
            "--store",
            store.path,
            "--out",
            out,
            "--also",
            tmp_path / "none",
        ),
        tmp_path / "none",
    )
    assert not out.exists()

"""The paper's numbers beside ours: what the commands write is read again, alone or in its folder, and strangers are refused in one line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from commands import assert_mistake, scdnet, tree
from small import TINY, random_walks

from scdnet.evaluation import linear
from scdnet.paper.ablations import TABLES, ablate
from scdnet.paper.tables import averaged, collect, compare, find_results, local_results
from scdnet.utils.files import shipped
from scdnet.utils.records import Result, read_results

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def short():
    """Two rows of Table 5 and a probe of two epochs are enough to see what is written and read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TABLES, "table5", TABLES["table5"][:2])
        patch.setitem(
            linear.PRESETS, "demo", replace(linear.PRESETS["demo"], epochs=2, rates=(0.1, 1.0))
        )
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return random_walks(
        tmp_path_factory.mktemp("results") / "waves", half=(slice(16), slice(16, 32))
    )


@pytest.fixture(scope="module")
def ablations(store, tmp_path_factory):
    """Two rows of Table 5 with two seeds each, as `scdnet ablate` leaves them."""
    out = tmp_path_factory.mktemp("results") / "ablations"
    ablate("table5", store, "half", TINY, out, "demo", seeds=(0, 1), progress=False)
    return out


@pytest.fixture(scope="module")
def run(store, ablations, tmp_path_factory):
    """A run with a result in its folder and another one that was sent away."""
    folder = tmp_path_factory.mktemp("results")
    run = shutil.copytree(
        ablations / "full-0", folder / "waves-0", ignore=shutil.ignore_patterns("eval")
    )
    words = ["evaluate", "knn", "--run", run, "--store", store.path, "--split", "half"]
    for more in ([], ["--out", folder / "away" / "knn.json"]):
        assert scdnet(*words, *more).returncode == 0
    return run


def test_a_result_says_where_it_comes_from(run, store):
    result = json.loads((run.parent / "away" / "knn.json").read_text())
    about = result["about"]
    assert result["run"] == about["name"] == "waves-0" and result["run_seed"] == 0
    assert about["config"]["seed"] == 0 and about["hours"] == result["hours"] > 0
    assert (
        result["machine"]["torch"]
        and result["command"] == "scdnet evaluate knn --run waves-0 --store waves --split half"
    )
    assert str(run.parent) not in json.dumps(result) and str(store.path.parent) not in json.dumps(
        result
    )


def told(result):
    """A result but for the place and the time of its evaluation."""
    return replace(result, date="", machine={}, predictions="")


def test_the_file_alone_says_what_the_run_says(run):
    ((_, inside),), ((_, away),) = find_results(run), find_results(run.parent / "away")
    assert told(inside) == told(away)
    assert (
        inside.dataset == "waves"
        and inside.run_seed == 0
        and inside.recipe.startswith("demo --epochs 1 ")
        and inside.hardware
        and inside.untrained is not None
    )
    assert len(local_results([run, run.parent / "away"], shelf=False)) == 1  # told twice, it is one


def test_a_table_alone_says_what_its_runs_say(ablations, tmp_path):
    shutil.copy(ablations / "table5.json", tmp_path)
    whole, alone = (local_results([place], shelf=False) for place in (ablations, tmp_path))
    same = [
        "protocol",
        "dataset",
        "split",
        "configuration",
        "recipe",
        "run_seed",
        "top1",
        "untrained",
        "run",
    ]
    assert len(whole) == len(alone) == 2 * 2 * 2
    for side in (whole, alone):
        side.sort_values(same, inplace=True, ignore_index=True)
    pd.testing.assert_frame_equal(whole[same], alone[same])
    assert set(alone["configuration"]) == {"", TABLES["table5"][0].configuration}
    assert whole["hours"].sum() == pytest.approx(alone["hours"].sum())


def test_a_collection_keeps_whole_numbers_whole(run, tmp_path):
    """Among results without draws, pandas makes the number of draws a float."""
    ((path, one),) = find_results(run)
    few = replace(one, protocol="semi", fraction=0.1, draws=5, labelled=2, setting="10%")
    few.write(path.with_name("semi.json"))
    try:
        collect([run], tmp_path / "mine.json")
    finally:
        path.with_name("semi.json").unlink()
    rows = {
        row["protocol"]: row for row in json.loads((tmp_path / "mine.json").read_text())["results"]
    }
    assert rows["semi"]["draws"] == 5 and rows["semi"]["labelled"] == 2
    assert "draws" not in rows["knn"]


def has_ablation(printed):
    """Whether the row of `ablations` is listed; the paper's own cells bear the same name."""
    return any(
        line.split()[:4] == ["5", "waves", "half", "no-extractor"] for line in printed.splitlines()
    )


def test_the_command(run, ablations, tmp_path):
    done = scdnet(
        "results",
        run,
        ablations,
        "--csv",
        tmp_path / "all.csv",
        "--collect",
        tmp_path / "mine.json",
    )
    assert done.returncode == 0 and done.stderr == ""
    assert (
        done.stdout.count("not run") >= 50
        and has_ablation(done.stdout)
        and "knn, waves half" in done.stdout
    )
    written = pd.read_csv(tmp_path / "all.csv", keep_default_na=False, dtype=str)
    assert len(written) == len(compare(local_results([run, ablations]))) and set(
        written["table"]
    ) >= set("12345678")
    assert (
        str(run.parent)
        not in (tmp_path / "mine.json").read_text() + (tmp_path / "all.csv").read_text()
    )
    again = scdnet("results", tmp_path / "mine.json")
    assert again.returncode == 0 and again.stdout == done.stdout
    for flag, file in (("--csv", "all.csv"), ("--collect", "mine.json")):
        assert_mistake(scdnet("results", run, flag, tmp_path / file), file, "--overwrite")
        assert scdnet("results", run, flag, tmp_path / file, "--overwrite").returncode == 0


def test_one_table(run, ablations):
    for number, cells in enumerate((6, 4, 2, 4, 10, 10, 10, 14), 1):
        done = scdnet("results", run, ablations, "--table", number)
        assert (
            done.returncode == 0
            and sum(line.startswith(f"{number}  ") for line in done.stdout.splitlines()) >= cells
        )
        assert has_ablation(done.stdout) == (number == 5) and (
            "knn, waves half" in done.stdout
        ) == (number == 2)
    assert scdnet("results", "--table", 9).returncode == 2


def test_what_ships_is_whole():
    files = [path.name for path, _ in find_results(shipped("results"))]
    assert set(files) == {
        "mannequin.json",
        "mannequin-ablations.json",
        "nwucla.json",
        "nwucla-ablations.json",
        "nwucla-h200.json",
    }
    assert (
        files.count("mannequin-ablations.json") == 2 * 3 * 15
        and files.count("nwucla-ablations.json") == 2 * 15
    )  # linear and 1-NN, seeds, rows of three tables
    assert scdnet("results").returncode == 0


def told_in_readme(text):
    """The rows of README's two tables of results, from the seed and from the first number on."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    seeds = [line[2:] for line in lines if len(line) == 5 and line[2].isdigit()]
    return seeds, [
        line[1:] for line in lines if len(line) == 5 and line[0] in ("**pretrained**", "untrained")
    ]


def measured_for_readme():
    """The same from the files that ship."""
    local = local_results()
    full = local[
        (local["configuration"] == "") & (local["stream"] == "joint") & local["untrained"].notna()
    ]
    seeds = []
    for dataset, recipe in (
        ("mannequin", "small --epochs 110"),
        ("mannequin", "demo"),
        ("NW-UCLA", "demo --epochs 250 --queue-size 256 --view.*"),
    ):
        shown = full[(full["dataset"] == dataset) & full["recipe"].str.fullmatch(recipe)]
        for seed, rows in shown.groupby("run_seed"):
            rows = rows.set_index("protocol").loc[["linear", "knn"]]
            seeds.append(
                [
                    f"{seed:.0f}",
                    *(
                        f"{row['raw']:.1f} / {row['untrained']:.1f} / **{row['top1']:.1f}**"
                        for _, row in rows.iterrows()
                    ),
                ]
            )
    tuned = (
        averaged(shown)
        .query("protocol in ('finetune', 'semi') and metric == 'top1'")
        .set_index("setting")
        .loc[["", "10%", "5%", "1%"]]
    )
    return seeds, [
        [f"{row['ours']:.1f} ± {row['std']:.1f}" for _, row in tuned.iterrows()],
        [f"{value:.1f}" for value in tuned["untrained"]],
    ]


def test_readme_says_what_ships():
    text, measured = (ROOT / "README.md").read_text(encoding="utf-8"), measured_for_readme()
    assert len(measured[0]) == 9 and told_in_readme(text) == measured
    assert told_in_readme(text.replace("**86.6**", "**87.6**")) != measured


STRANGERS = {
    "no JSON": ("{", "not JSON"),
    "bytes": (b"\xff\xfe", "not JSON"),
    "deep": ("[" * 100_000, "not JSON"),
    "a list": ("[]", "no result"),
    "a recording": ('{"skeletons": []}', "no result"),
    "of no run": ({"about": {}}, "name the run's folder"),
    "a run without values": ({"about": {"name": "x"}}, "config"),
    "a run that is a word": ({"about": "mine"}, "about is 'mine'"),
    "too good": ({"top1": 100.5}, "top1 is '100.5'"),
    "not a number": ({"top1": float("nan")}, "top1 is"),
    "endless": ({"top1": float("inf")}, "top1 is"),
    "true": ({"top1": True}, "top1 is 'True'"),
    "a word": ({"top5": "97.6"}, "top5 is '97.6'"),
    "no store": ({"store": None}, "store is 'None'"),
    "a bell": ({"split": "x\asub"}, "split"),
    "two lines": ({"split": "a\nb"}, "split"),
    "a seed of its own": ({"run_seed": "0"}, "run_seed is '0'"),
    "a collection of nothing": ('{"results": [3]}', "strange.json"),
    "another column": ('{"results": [{"colour": 3}]}', "strange.json"),
    "half a demo": ('{"stages": {}}', "no result"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_are_refused(name, run, tmp_path):
    content, said = STRANGERS[name]
    if isinstance(content, dict):
        good = json.loads((run.parent / "away" / "knn.json").read_text())
        content = json.dumps(good | content)
    file = tmp_path / "strange.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    for place in (file, tmp_path):
        assert_mistake(scdnet("results", place), "strange.json", said)
    assert tree(tmp_path) == ["strange.json"]


def test_a_damaged_run_is_refused(run, tmp_path):
    for name, damage in (
        ("config.json", "{"),
        ("metrics.jsonl", '{"epoch": 1}\n'),
        (str(next((run / "eval").glob("*.json")).relative_to(run)), "[1]"),
    ):
        copy = shutil.copytree(run, tmp_path / "copy")
        (copy / name).write_text(damage)
        assert_mistake(scdnet("results", copy), name)
        shutil.rmtree(copy)


def test_places_without_results(store, tmp_path):
    assert_mistake(scdnet("results", tmp_path / "nowhere"), "nowhere")
    assert_mistake(scdnet("results", tmp_path), "no results")
    assert_mistake(scdnet("results", store.path), "no results")
    assert_mistake(scdnet("results", "--collect", tmp_path / "mine.json"), "folder")
    assert tree(tmp_path) == []


def test_a_collection_of_different_protocols(tmp_path):
    """What only some of the results have, such as the number of draws, stays a whole number beside the gaps of the others."""
    semi = Result("semi", "half", 50.0, dataset="d", draws=2, labelled=7, fraction=0.4, run="a")
    knn = Result("knn", "half", 60.0, dataset="d", run="a")
    for one in (semi, knn):
        replace(one, recipe="demo", run_seed=0).write(tmp_path / "in" / f"{one.protocol}.json")
    found = read_results(collect([tmp_path / "in"], tmp_path / "out.json"))
    assert {(one.protocol, one.draws, one.labelled) for one in found} == {
        ("semi", 2, 7),
        ("knn", None, None),
    }

"""What clues know: factors of one value or none, codes in another order, mistakes, the same numbers again."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small import TINY, random_walks

from scdnet.data.layouts import NTU25
from scdnet.data.store import SkeletonStore
from scdnet.evaluation.disentanglement import (
    PAIRS,
    changed,
    clue_scores,
    dci,
    factor_table,
    planted,
    probe,
    probe_factors,
    reactions,
    study,
    turned,
)
from scdnet.training.pretrain import pretrain
from scdnet.utils.files import InputError

PEOPLE, TAKES = 6, 4
ACTIONS = np.repeat(sorted({action for pair in PAIRS.values() for action in pair}), PEOPLE * TAKES)
SUBJECTS = np.tile(np.repeat(np.arange(PEOPLE), TAKES), len(ACTIONS) // PEOPLE // TAKES)
LABELS, TRAIN, TEST = ACTIONS - 1, np.flatnonzero(SUBJECTS < 4), np.flatnonzero(SUBJECTS >= 4)


@pytest.fixture(scope="module")
def factors():
    """A `factors.csv` in which whatever is not bound to the class is drawn freely."""
    rng, n = np.random.default_rng(0), len(ACTIONS)
    drawn = {
        "handedness": ("left", "right"),
        "seated": (True, False),
        "rest": ("hanging", "belly", "hip"),
        "direction": ("forward", "backward"),
        "camera": (1, 2, 3),
    }
    ranges = {
        "amplitude": (0.5, 2),
        "cycles": (1, 5),
        "before": (0, 20),
        "after": (0, 20),
        "warp": (1, 2),
        "speed": (0.5, 2),
        "view": (-45, 45),
        "height": (1, 2),
        "turning": (0, 1),
    }
    bound = {
        "name": [f"clip{i:03}" for i in range(n)],
        "action": ACTIONS,
        "action_name": ACTIONS.astype(str),
        "limb": np.where(ACTIONS % 2, "one arm", "body"),
        "target": np.where(ACTIONS % 3, "mouth", "floor"),
        "rate": ACTIONS % 2,
        "frames": 100,
        "subject": SUBJECTS,
    }
    return pd.DataFrame(
        bound
        | {name: rng.choice(values, n) for name, values in drawn.items()}
        | {name: rng.uniform(*ends, n) for name, ends in ranges.items()}
    )


@pytest.fixture(scope="module")
def clues(factors):
    return planted(factor_table(factors), LABELS, noise=0.2)


def asked(clues, factors):
    return probe_factors(clues, factor_table(factors), LABELS, SUBJECTS, TRAIN, TEST)


@pytest.fixture(scope="module")
def found(clues, factors):
    return asked(clues, factors)


def test_a_score_does_not_know_the_order_of_numbers_and_factors():
    importance = np.random.default_rng(0).random((5, 3)) ** 4
    apart, whole = dci(importance)
    assert np.allclose(
        dci(5 * importance[[3, 1, 0, 4, 2]][:, [2, 0, 1]]), (apart, whole)
    ) and np.allclose(dci(importance.T), (whole, apart))
    assert dci(np.zeros((2, 2))) == (0, 0)


@pytest.mark.parametrize("wrong", [-1, np.nan, np.inf])
def test_an_importance_is_a_number_from_0_on(wrong):
    with pytest.raises(InputError, match="expected numbers from 0 on"):
        dci([[1, wrong], [0, 1]])


def test_planted_codes_are_found_in_any_order(found, clues, factors):
    rng = np.random.default_rng(1)
    assert (
        min(clue_scores(found)) > 0.8 > 0.3 > max(clue_scores(asked(turned(clues, TRAIN), factors)))
    )
    shuffled = {name: codes[:, rng.permutation(codes.shape[1])] for name, codes in clues.items()}
    assert np.allclose(clue_scores(asked(shuffled, factors)), clue_scores(found))
    other_names = dict(zip(clues, reversed(clues.values()), strict=True))
    assert np.allclose(clue_scores(asked(other_names, factors)), clue_scores(found))


def test_the_same_again(found, clues, factors):
    pd.testing.assert_frame_equal(asked(clues, factors), found, check_exact=True)
    clips = np.random.default_rng(0).normal(size=(2, 3, 16, 25, 2)).astype(np.float32)
    first, second, other = (
        changed(clips, NTU25),
        changed(clips, NTU25),
        changed(clips, NTU25, seed=1),
    )
    assert all((first[name] == second[name]).all() for name in first)
    assert {name for name in first if (first[name] != other[name]).any()} == {
        "jitter",
        "frames shuffled",
        "joints shuffled",
    }


@pytest.mark.parametrize(
    "values, chance",
    [
        (pd.Series(["left"] * len(ACTIONS)), 50),
        (pd.Series([2.5] * len(ACTIONS)), 0),
        (pd.Series([None] * len(ACTIONS), dtype=object), 50),
        (pd.Series([np.nan] * len(ACTIONS)), 0),
        (pd.Series(np.where(SUBJECTS < 4, "left", "right")), 50),
    ],
    ids=["one category", "one number", "no category", "no number", "one category to learn from"],
)
def test_what_cannot_be_learned_is_at_chance(values, chance, clues):
    codes = clues["spatial"]
    assert probe(codes, values, TRAIN, TEST, SUBJECTS, LABELS, [slice(1)]) == (
        chance,
        chance,
        [chance],
    )


def test_a_category_that_nobody_shows_in_training_is_missed(clues):
    values = pd.Series(np.where(SUBJECTS == 5, "new", np.where(ACTIONS % 2, "odd", "even")))
    value, chance, _ = probe(clues["spatial"], values, TRAIN, TEST, SUBJECTS)
    assert np.isclose(chance, 100 / 3) and 60 < value < 67


@pytest.mark.parametrize(
    "labels, subjects, said",
    [
        ([0, 0, 1], [1, 1, 2], "no clip of another person and the same class"),
        ([0, 0], [1, 2], "another class"),
    ],
)
def test_a_reaction_needs_others_to_compare(labels, subjects, said):
    codes = {"spatial": np.eye(3)[: len(labels)]}
    with pytest.raises(InputError, match=said):
        reactions(codes, {}, np.array(labels), np.array(subjects))


def test_every_clip_needs_its_factors(factors, tmp_path):
    store = random_walks(tmp_path / "store", half=(slice(24), slice(24, 32)))
    with pytest.raises(InputError, match="no row for clip00, expected one for each clip of"):
        study({}, store, factors, "half")


def test_a_study(factors, tmp_path):
    """Every question to every encoder; the rows of `factors.csv` may stand in any order."""
    rng, few = np.random.default_rng(0), factors[factors.index % TAKES < 2]
    clips = [np.cumsum(rng.normal(size=(20, 25, 3)), 0) / 5 for _ in few.index]
    sides = [
        few["name"][few["subject"].isin(people)].tolist() for people in (range(4), range(4, PEOPLE))
    ]
    store = SkeletonStore.from_arrays(
        tmp_path / "store",
        clips,
        few["action"].to_numpy() - 1,
        NTU25,
        names=few["name"].tolist(),
        splits={"half": sides},
        classes=[str(i) for i in range(60)],
        columns={"subject": few["subject"].to_numpy()},
    )
    run = pretrain(
        store, "half", replace(TINY, batch_size=32), tmp_path / "run", preset="demo", progress=False
    )
    found = study({"pretrained": run}, store, few.sample(frac=1, random_state=0), "half")
    assert (
        set(found["encoder"]) == {"pretrained", "untrained", "coordinates", "turned", "planted"}
        and np.isfinite(found["value"]).all()
    )
    assert set(found["kind"]) == {
        "probe",
        "importance",
        "pair",
        "silhouette",
        "neighbours",
        "reaction",
        "other",
        "other, backwards",
    }
    where = (
        found[
            (found["kind"] == "probe")
            & found["factor"].isin(("rest", "amplitude"))
            & (found["clue"] == "spatial")
        ]
        .groupby("encoder")["value"]
        .mean()
    )
    assert where["planted"] > where["pretrained"] + 20

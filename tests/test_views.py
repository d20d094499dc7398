"""Views, masks and batches: what the chapters do not show because it only guards."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import TINY, random_walks
from torch import Generator

from scdnet.data.layouts import KINECT20, NTU25
from scdnet.data.store import SkeletonStore, StoreWriter
from scdnet.training.batches import Batches
from scdnet.utils import distributed
from scdnet.utils.files import InputError
from scdnet.views.config import ClipFormat, ViewConfig, evaluation_clips, random_crops, view_chain
from scdnet.views.masks import SpatialMask, TemporalMask, random_fill, spatial_mask, temporal_mask
from scdnet.views.transforms import Chain, Flip, Rotate, Shear, resize, rotations

CPU = torch.device("cpu")


def seeded(seed=0):
    return Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("walks") / "store"
    return random_walks(path, half=(slice(0, 32, 2), slice(1, 32, 2)))


# Masks


@pytest.mark.parametrize(
    "given",
    [
        [5],
        (5,),
        np.array([5]),
        torch.tensor([5]),
        [np.int64(5)],
        torch.tensor([5], dtype=torch.int8),
    ],
    ids=lambda given: type(given).__name__,
)
def test_given_seeds_are_joints(given):
    hidden = spatial_mask(NTU25, 60, seeded(), seeds=given, k=5)
    assert hidden[:, 5].all()  # the elbow itself, in every mask
    assert (hidden == spatial_mask(NTU25, 60, seeded(), seeds=[5], k=5)).all()


def test_a_whole_number_of_seeds_is_a_count():
    for count in (5, np.int64(5), np.int32(5)):
        drawn = spatial_mask(NTU25, 60, seeded(), seeds=count)
        assert (drawn == spatial_mask(NTU25, 60, seeded())).all()


@pytest.mark.parametrize(
    "wrong",
    [
        0,
        np.int64(-1),
        [],
        [25],
        [-1],
        [1.5],
        [[1, 2]],
        np.array([0.0]),
        torch.tensor([True]),
        np.array(5),
    ],
    ids=str,
)
def test_seeds_that_are_neither_are_refused(wrong):
    with pytest.raises(InputError, match=r"seeds is .*, expected"):
        spatial_mask(NTU25, 3, seeded(), seeds=wrong)


def exact_scores(skeleton, seeds, n):
    """Walks from the seeds to each joint, in Python's whole numbers."""
    near = {j: {j} for j in range(skeleton.num_joints)}
    for a, b in skeleton.bones:
        near[a].add(b)
        near[b].add(a)
    row = [seeds.count(j) for j in range(skeleton.num_joints)]
    for _ in range(n):
        row = [sum(row[i] for i in near[j]) for j in range(skeleton.num_joints)]
    return row


@pytest.mark.parametrize("n", [0, 1, 2, 12, 20])
def test_masks_take_the_highest_scores_at_every_n(n):
    seeds = [3, 11, 11, 20, 7]
    scores = torch.tensor(exact_scores(NTU25, seeds, n))
    for k in (0, 3, 8, 25):
        for row in spatial_mask(NTU25, 20, seeded(), n, k, seeds):
            assert row.sum() == k
            assert k in (0, 25) or scores[row].min() >= scores[~row].max()


def test_ties_are_broken_at_random():
    hidden = spatial_mask(NTU25, 4000, seeded(), n=0, k=4, seeds=[0, 1])
    assert hidden[:, :2].all()
    assert (hidden[:, 2:].double().mean(0) - 2 / 23).abs().max() < 0.03


def test_random_fill_counts_the_hidden_joints_without_a_walk():
    for n, seeds, expected in ((0, [5], 7), (1, [5], 5), (2, [5], 3), (2, [1, 5, 13], 0)):
        hidden = spatial_mask(NTU25, 9, seeded(), n, 8, seeds)
        scores = torch.tensor(exact_scores(NTU25, seeds, n))
        found = random_fill(NTU25, hidden, torch.tensor([seeds] * 9), n)
        assert found.tolist() == [int((scores[row] == 0).sum()) for row in hidden] == [expected] * 9


def test_masks_that_do_not_fit_are_refused():
    for wrong in (
        lambda: spatial_mask(KINECT20, 1, seeded(), k=21),
        lambda: spatial_mask(KINECT20, 1, seeded(), k=-1),
        lambda: temporal_mask(10, 1, seeded()),
        lambda: temporal_mask(64, 1, seeded(), r=17),
    ):
        with pytest.raises(InputError, match="expected"):
            wrong()


# Transforms


@pytest.mark.parametrize("start, length", [(-1, 5), (0, 0), (96, 5), (0, 101)])
def test_resize_refuses_stretches_outside_the_frames(start, length):
    with pytest.raises(InputError, match="leaves the 100 frames"):
        resize(torch.zeros(100, 1, 25, 3), torch.tensor([0, start]), torch.tensor([5, length]), 8)


@pytest.mark.parametrize(
    "transform", [Rotate, Flip, Shear, SpatialMask, lambda p: TemporalMask(s=4, r=2, p=p)]
)
def test_each_transform_has_a_probability_of_its_own(transform):
    clips = torch.randn(400, 3, 8, 25, 2, generator=seeded(1))
    kept = clips.clone()
    for p in (0.0, 0.25, 1.0):
        made = transform(p=p)(clips, NTU25, seeded())
        changed = (made != clips).flatten(1).any(1).double().mean()
        assert made.shape == clips.shape and abs(changed - p) < 0.07
    assert (clips == kept).all()  # the input is left alone


def test_no_clips_have_no_views():
    form, config = ClipFormat(NTU25, 16, 2, 3), ViewConfig()
    crops = random_crops(
        torch.zeros(9, 2, 25, 3), [], torch.tensor([], dtype=int), config, seeded(), form
    )
    assert view_chain(config)(crops, NTU25, seeded()).shape == (0, 3, 16, 25, 2)


def test_a_configuration_is_checked():
    for wrong in (
        {"p": 2},
        {"spatial": "some"},
        {"crop_low": 0.8, "crop_high": 0.5},
        {"crop_least": 0},
        {"rotate_main": float("inf")},
        {"spatial_n": 21},
    ):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ViewConfig(**wrong)


# The form of clips


def test_clips_are_the_middles_of_each(store):
    form = ClipFormat(KINECT20, 16, 1, 3, "bone")
    indices = np.array([7, 3, 3, 30])
    plain = [
        evaluation_clips(
            torch.from_numpy(np.array(store[i])), [0], [len(store[i])], 16, "bone", KINECT20
        )
        for i in indices
    ]
    assert torch.equal(form.clips(store, indices), torch.cat(plain))
    assert form.clips(store, indices[:0]).shape == (0, *form.shape)


def test_persons_are_added_and_left_out(store):
    one, two = ClipFormat(KINECT20, 16, 1, 3), ClipFormat(KINECT20, 16, 2, 3)
    clips = two.clips(store, np.arange(4))
    assert clips.shape == (4, *two.shape) and not clips[..., 1].any()
    assert torch.equal(clips[..., :1], one.clips(store, np.arange(4)))
    assert torch.equal(one.fit(clips), clips[..., :1])


# Batches


def test_batches_hold_the_training_clips_only(store):
    train, _ = store.split("half")
    batches = Batches(TINY, store, train, CPU)
    assert len(batches.frames) == store.lengths[train].sum() < len(store.frames)
    for i, clip in enumerate(train):
        start, length = batches.starts[i], batches.lengths[i]
        assert (batches.frames[start : start + length].numpy() == store[clip]).all()


def same(a, b):
    return np.array_equal(a.indices, b.indices) and all(map(torch.equal, a[1:], b[1:]))


def test_a_batch_depends_on_seed_and_step_alone(store):
    train, _ = store.split("half")
    ahead = Batches(TINY, store, train, CPU)
    plain = Batches(TINY, store, train, CPU, prefetch=False)
    wanted = [plain(step) for step in range(5)]
    assert all(same(ahead(step), wanted[step]) for step in range(5))
    for step in (3, 4, 0, 2, 2):  # a run may go on at any step
        assert same(ahead(step), wanted[step])
    assert not torch.equal(wanted[0].view_q, wanted[0].view_k)
    assert not same(Batches(replace(TINY, seed=1), store, train, CPU)(0), wanted[0])


def test_clean_is_what_the_first_view_was_made_of(store):
    train, _ = store.split("half")

    def nothing(clips, skeleton, generator):
        return clips

    batch = Batches(TINY, store, train, CPU, transforms=nothing)(0)
    assert torch.equal(batch.view_q, batch.clean) and not torch.equal(batch.view_k, batch.clean)
    batch = Batches(TINY, store, train, CPU, transforms=Chain(Flip(p=1)))(0)
    assert torch.equal(batch.view_q, batch.clean[:, :, :, list(KINECT20.flip)])


def test_ranks_share_the_batch_of_one_process(store, monkeypatch):
    train, _ = store.split("half")
    whole, parts = Batches(TINY, store, train, CPU)(3), []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for number in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        parts.append(Batches(TINY, store, train, CPU)(3))
    for i in (1, 2, 3):
        assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])
    assert all(np.array_equal(part.indices, whole.indices) for part in parts)


def test_an_error_in_the_thread_reaches_the_caller(store):
    train, _ = store.split("half")

    def broken(clips, skeleton, generator):
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("no view today")
        return clips

    batches = Batches(TINY, store, train, CPU, transforms=broken)
    batches(0)
    with pytest.raises(ValueError, match="no view today"):
        batches(1)
    assert len(batches(1).indices) == TINY.batch_size  # and the next call starts anew


def test_the_thread_ends_with_the_batches(store):
    before = threading.active_count()
    batches = Batches(TINY, store, store.split("half")[0], CPU)
    batches(0)
    thread = next(iter(batches.thread._threads))
    del batches
    thread.join(5)
    assert not thread.is_alive() and threading.active_count() <= before


def test_transforms_that_do_not_fit_are_refused_at_once(store):
    train, _ = store.split("half")
    for wrong in (
        SpatialMask(k=21),
        TemporalMask(s=17),
        lambda clips, skeleton, generator: clips[:, :2],
    ):
        with pytest.raises(InputError, match="expected"):
            Batches(TINY, store, train, CPU, transforms=wrong)
    with pytest.raises(InputError, match="only 16 training clips"):
        Batches(replace(TINY, batch_size=17), store, train, CPU)


def test_a_second_person_that_is_absent_stays_away(tmp_path):
    clips = [
        np.random.default_rng(i).normal(size=(20, 2, 20, 3)).astype(np.float32) for i in range(8)
    ]
    for clip in clips:
        clip[:, 1] = 0
    store = SkeletonStore.from_arrays(tmp_path / "store", clips, [0] * 8, KINECT20)
    batch = Batches(TINY, store, np.arange(8), CPU)(0)
    assert batch.view_q[..., 0].any() and not batch.view_q[..., 1].any()


def test_a_trajectory_is_seen_where_a_run_asks_for_it(tmp_path):
    """It takes the centre joint's place, moves with the clip when that is aligned, and begins anywhere; absent bodies stay absent."""
    rng = np.random.default_rng(0)
    clip = rng.normal(size=(12, 1, 20, 3)).astype(np.float32)
    clip[:, :, KINECT20.center], clip[5] = 0, 0
    path = rng.normal(size=(12, 3)).astype(np.float32).cumsum(0)
    tilt = rotations(torch.tensor([[0.3, -0.2, 1.0]])).numpy()[0].astype(np.float32)
    stores = []
    for name, turn, start in (("one", np.eye(3, dtype=np.float32), 0), ("two", tilt, 5)):
        (tmp_path / name).mkdir()
        writer = StoreWriter(tmp_path / name, KINECT20, persons=1)
        writer.append("walk", clip @ turn.T, 0, trajectory=(path + start) @ turn.T)
        writer.finish(["walk"], None, {}, {"source": {}, "preparation": {}})
        stores.append(SkeletonStore.open(tmp_path / name))
    form = ClipFormat(KINECT20, 12, 1, 3, align=True, trajectory=True)
    seen = form.clips(stores[0], np.array([0]), share=1.0)
    torch.testing.assert_close(
        form.clips(stores[1], np.array([0]), share=1.0), seen, atol=1e-5, rtol=1e-5
    )
    there, centre = np.arange(12) != 5, KINECT20.center
    steps = seen[0, :, there][:, :, centre, 0].diff(dim=1).norm(dim=0)
    expected = torch.from_numpy(np.linalg.norm(np.diff(path[there], axis=0), axis=1))
    torch.testing.assert_close(steps, expected, atol=1e-5, rtol=1e-5)
    assert not seen[:, :, 5].any() and seen[0, :, :, centre].mean(1).abs().max() < 1e-6
    unseen = replace(form, trajectory=False).clips(stores[0], np.array([0]), share=1.0)
    assert not unseen[:, :, :, centre].any()
    others = np.arange(20) != centre
    torch.testing.assert_close(unseen[:, :, :, others], seen[:, :, :, others])
    pair = torch.cat(
        [seen, torch.roll(seen, 3, 3)], 4
    )  # a second body, whose centre joint is a place in it
    fitted = replace(form, persons=2).fit(pair)
    torch.testing.assert_close(fitted[..., 1], pair[..., 1], atol=0, rtol=0)

"""What must hold whatever comes: one table, in the order of the book. Left is what is said, right what checks it; most of it draws its own cases.

The notebooks check each function against a plain version; here stand the promises that cross them. Exact round trips of the other formats: test_formats_*.py; resumed runs: test_ranks.py and nbs/42.
"""

import dataclasses
import itertools
import json
import pickle
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from small import TINY, random_walks

from scdnet.data.layouts import KINECT20, NTU25
from scdnet.data.mannequin.pku_files import video_text
from scdnet.data.readers import pku
from scdnet.data.readers.arrays import unpad
from scdnet.data.readers.base import Entry
from scdnet.data.readers.npz import read_npy
from scdnet.data.readers.ntu import read_skeleton
from scdnet.data.readers.pickles import load_pickle
from scdnet.data.skeleton import Skeleton
from scdnet.data.store import SkeletonStore
from scdnet.evaluation.few_labels import read_draws, write_draws
from scdnet.model.encoder import EncoderConfig, scd_encoder
from scdnet.training.loss import Queue, info_nce
from scdnet.training.official import import_official, read_checkpoint  # noqa: F401  (nbs/33 takes a model apart and reads it back)
from scdnet.training.pretrain import pretrain
from scdnet.training.run import Run, load_encoder
from scdnet.utils.files import digest, parse_json, read_json, write_json
from scdnet.views.config import (
    ClipFormat,
    Masking,
    ViewConfig,
    evaluation_clips,
    random_crops,
    view_chain,
)
from scdnet.views.masks import hide, spatial_mask, temporal_mask
from scdnet.views.transforms import Flip, Rotate, center_crop, crop, resize, to_stream

few = settings(
    max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
seeds = st.integers(0, 2**32 - 1)
layouts = st.sampled_from((NTU25, KINECT20))


def generator(seed):
    return torch.Generator().manual_seed(seed)


def clips_of(seed, skeleton, count=3, frames=20, persons=2, coords=3):
    """(N, C, T, V, M) of bodies that differ."""
    return torch.randn(
        count, coords, frames, skeleton.num_joints, persons, generator=generator(seed)
    )


def lengths_of(clips, skeleton):
    """Lengths of all bones, (N, T, B, M)."""
    child, parent = zip(*skeleton.bones, strict=True)
    return (clips[:, :, :, list(child)] - clips[:, :, :, list(parent)]).norm(dim=1)


def read_of_a_store_is_what_was_written(tmp_path):
    @few
    @given(seed=seeds, persons=st.integers(1, 3), coords=st.integers(2, 3), count=st.integers(1, 5))
    def check(seed, persons, coords, count):
        rng = np.random.default_rng(seed)
        clips = [
            (
                rng.normal(size=(rng.integers(1, 9), persons, 20, coords))
                * 10.0 ** rng.integers(-30, 30)
            ).astype(np.float32)
            for _ in range(count)
        ]
        names, labels = [f'{i}, "é" =1+1 {i}' for i in range(count)], rng.integers(0, 4, count)
        store = SkeletonStore.from_arrays(
            tmp_path / "store",
            clips,
            labels,
            KINECT20,
            names,
            {"s, 1": (names[:1], names[1:])},
            columns={"subject": range(count)},
            overwrite=True,
        )
        again = SkeletonStore.open(store.path, check_digest=True)
        assert (
            again.names == names
            and again.labels.tolist() == labels.tolist()
            and again.skeleton == KINECT20
            and again.clips["subject"].tolist() == list(range(count))
        )
        assert all(
            (a == b).all() and a.shape == b.shape for a, b in zip(again, clips, strict=True)
        ) and again.meta["splits"]["lists"]["s, 1"] == {"train": names[:1], "test": names[1:]}

    check()


def read_of_a_skeleton_file_is_what_was_written(tmp_path):
    @few
    @given(seed=seeds, bodies=st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(any))
    def check(seed, bodies):
        rng, lines, expected = (
            np.random.default_rng(seed),
            [str(len(bodies))],
            np.zeros((len(bodies), max(bodies), 25, 3), np.float32),
        )
        for t, count in enumerate(bodies):
            lines.append(str(count))
            for m in range(count):
                points = np.round(rng.normal(size=(25, 3)) * 3, 6)
                expected[t, m] = points
                lines += [
                    f"7205759403792{m} 0 1 1 1 1 0 0.1 0.2 2",
                    "25",
                    *(f"{x!r} {y!r} {z!r} 1 2 3 4 0 0 0 1 2" for x, y, z in points.tolist()),
                ]
        data = "\n".join(lines).encode()
        for text in (data, data + b"\n", data.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + data):
            assert (read_skeleton(text) == expected).all()

    check()


def read_of_a_video_is_what_was_written(tmp_path):
    rng = np.random.default_rng(0)
    for frames in (1, 7, 700):
        video = np.round(rng.normal(size=(frames, 2, 25, 3)), 6).astype(np.float32)
        data = video_text(video).encode()
        assert np.abs(pku.read_video(data) - video).max() < 1e-6


def read_of_arrays_pickles_and_json_is_what_was_written(tmp_path):
    @few
    @given(
        seed=seeds,
        shape=st.lists(st.integers(0, 4), min_size=1, max_size=4),
        kind=st.sampled_from("f2 f4 >f4 f8 i1 i8 u2 ?".split()),
        order=st.sampled_from("CF"),
        protocol=st.integers(0, 5),
    )
    def check(seed, shape, kind, order, protocol):
        array = np.asarray(
            (np.random.default_rng(seed).normal(size=shape) * 100).astype(kind), order=order
        )
        np.save(tmp_path / "a.npy", array)
        (tmp_path / "a.pkl").write_bytes(
            pickle.dumps({"a": [array, ("é", 3, None, 1.5, b"\xff")]}, protocol)
        )
        back = load_pickle(Entry(str(tmp_path / "a.pkl")))["a"]
        # NumPy turns the bytes around as it reads a pickle, but not as it reads a file
        for found in (read_npy((tmp_path / "a.npy").read_bytes(), ""), back[0]):
            assert (
                found.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
                and found.shape == array.shape
                and (found == array).all()
            )
        assert back[1] == ("é", 3, None, 1.5, b"\xff")

    check()

    trees = st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**30), 10**30)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(), x, max_size=4),
    )

    @few
    @given(tree=trees)
    def check_json(tree):
        assert (
            read_json(write_json(tmp_path / "a.json", tree))
            == tree
            == parse_json(json.dumps(tree).encode(), "")
        )

    check_json()


def read_of_a_layout_is_what_was_written(tmp_path):
    @few
    @given(size=st.integers(1, 30), seed=seeds)
    def check(size, seed):
        rng = np.random.default_rng(seed)
        order = rng.permutation(size).tolist()
        layout = Skeleton(
            "mine",
            tuple(f"j{i}" for i in range(size)),
            tuple((i, int(rng.integers(i))) for i in range(1, size)),
            tuple(zip(order[0 : size - 1 : 2], order[1:size:2], strict=True)),
            order[0],
        )
        assert Skeleton.from_dict(json.loads(json.dumps(layout.to_dict()))) == layout
        assert [layout.flip[layout.flip[j]] for j in range(size)] == list(
            range(size)
        )  # a mirror twice is none

    check()


def read_of_a_run_is_what_was_written(tmp_path):
    store = random_walks(tmp_path / "store", xsub=(slice(0, 16), slice(16, 32)))
    run = pretrain(store, "xsub", TINY, tmp_path / "run", progress=False)
    assert Run.open(run).config == TINY
    encoder, before = load_encoder(run), digest(run / "encoder.safetensors")
    with torch.no_grad():
        clips = evaluation_clips(
            torch.from_numpy(np.array(store.frames)),
            store.starts[:4],
            store.lengths[:4],
            TINY.encoder.frames,
        )
        assert (
            all(
                (a == b).all()
                for a, b in zip(encoder(clips), load_encoder(run)(clips), strict=True)
            )
            and digest(run / "encoder.safetensors") == before
        )
    draws = [np.arange(0, 8), np.arange(8, 16)]
    write_draws(tmp_path / "draws.csv", store, draws)
    assert all(
        (a == b).all()
        for a, b in zip(read_draws(tmp_path / "draws.csv", store, "xsub"), draws, strict=True)
    )


def padding_comes_off(tmp_path):
    @few
    @given(seed=seeds, length=st.integers(2, 20), total=st.integers(40, 60))
    def check(seed, length, total):
        clip = np.random.default_rng(seed).normal(size=(length, 1, 20, 3)).astype(np.float32)
        assert (unpad(clip[np.arange(total) % length]) == clip).all() and (
            unpad(np.pad(clip, ((0, total - length), (0, 0), (0, 0), (0, 0)))) == clip
        ).all()

    check()


def masks_hide_as_many_as_they_say(tmp_path):
    @few
    @given(
        seed=seeds,
        skeleton=layouts,
        n=st.integers(0, 5),
        k=st.integers(0, 20),
        count=st.integers(1, 9),
        frames=st.integers(1, 64),
        data=st.data(),
        structural=st.booleans(),
    )
    def check(seed, skeleton, n, k, count, frames, data, structural):
        joints = spatial_mask(skeleton, count, generator(seed), n, k, structural=structural)
        s = data.draw(st.integers(1, frames))
        r = data.draw(st.integers(0, s))
        hidden = temporal_mask(frames, count, generator(seed), s, r, structural)
        assert (joints.sum(1) == k).all()
        if not structural or frames % s == 0:
            assert (
                hidden.sum(1) == (frames * r // s if structural else round(frames * r / s))
            ).all()
        cubes = torch.arange(frames) * s // frames
        if structural:  # whole cubes, r of them
            assert all(
                len({*cubes[row].tolist()}) == r
                and not {*cubes[row].tolist()} & {*cubes[~row].tolist()}
                for row in hidden
            )

    check()


def masks_hide_what_they_say_and_nothing_else(tmp_path):
    @few
    @given(seed=seeds, skeleton=layouts)
    def check(seed, skeleton):
        clips = clips_of(seed, skeleton) + 10
        joints, frames = (
            spatial_mask(skeleton, 3, generator(seed)),
            temporal_mask(20, 3, generator(seed), 5, 2),
        )
        shown = hide(clips, joints, frames)
        gone = (joints[:, None, :] | frames[:, :, None])[:, None, :, :, None].expand_as(clips)
        assert not shown[gone].any() and (shown[~gone] == clips[~gone]).all()
        assert (
            (hide(hide(clips, joints), None, frames) == shown).all()
            and (hide(shown, joints, frames) == shown).all()
            and (hide(clips) == clips).all()
        )

    check()


def masking_does_not_mind_the_order_of_the_batch(tmp_path):
    @few
    @given(seed=seeds, skeleton=layouts, order=st.permutations(range(5)))
    def check(seed, skeleton, order):
        clips, joints, frames = (
            clips_of(seed, skeleton, 5),
            spatial_mask(skeleton, 5, generator(seed)),
            temporal_mask(20, 5, generator(seed), 10, 4),
        )
        assert (
            hide(clips, joints, frames)[order] == hide(clips[order], joints[order], frames[order])
        ).all()

    check()


def turning_keeps_bones_as_long_as_they_are(tmp_path):
    @few
    @given(seed=seeds, skeleton=layouts, main=st.floats(0, 360), coords=st.integers(2, 3))
    def check(seed, skeleton, main, coords):
        clips = clips_of(seed, skeleton, coords=coords)
        turned = Rotate(main, main, p=1)(clips, skeleton, generator(seed))
        torch.testing.assert_close(
            lengths_of(turned, skeleton), lengths_of(clips, skeleton), rtol=1e-4, atol=1e-5
        )
        assert main < 1 or not torch.equal(turned, clips)

    check()


def a_mirror_gives_each_bone_the_length_of_its_partner(tmp_path):
    @few
    @given(seed=seeds, skeleton=layouts, negate=st.booleans())
    def check(seed, skeleton, negate):
        clips = clips_of(seed, skeleton)
        mirror = Flip(p=1, negate_x=negate)
        mirrored = mirror(clips, skeleton, generator(seed))
        pairs = {frozenset(bone): i for i, bone in enumerate(skeleton.bones)}
        partner = [
            pairs[frozenset(skeleton.flip[j] for j in bone)] for bone in skeleton.bones
        ]  # a mirror takes bones to bones
        torch.testing.assert_close(
            lengths_of(mirrored, skeleton), lengths_of(clips, skeleton)[:, :, partner]
        )
        assert torch.equal(mirror(mirrored, skeleton, generator(seed)), clips)

    check()


def a_clip_resized_to_its_own_length_is_itself(tmp_path):
    @few
    @given(seed=seeds, length=st.integers(1, 100), start=st.integers(0, 20))
    def check(seed, length, start):
        frames = torch.randn(150, 2, 20, 3, generator=generator(seed))
        assert torch.equal(
            resize(frames, torch.tensor([start]), torch.tensor([length]), length)[0].permute(
                1, 3, 2, 0
            ),
            frames[start : start + length],
        )

    check()


def stretches_stay_inside_their_clip(tmp_path):
    @few
    @given(
        seed=seeds,
        lengths=st.lists(st.integers(1, 1000), min_size=1, max_size=9),
        low=st.floats(0, 1),
        high=st.floats(0, 1),
        least=st.integers(1, 2000),
        share=st.floats(0.01, 1),
    )
    def check(seed, lengths, low, high, least, share):
        lengths, (low, high) = torch.tensor(lengths), sorted((low, high))
        for offset, length in (
            crop(lengths, generator(seed), low, high, least),
            center_crop(lengths, share),
        ):
            assert (
                (offset >= 0).all() and (length >= 1).all() and (offset + length <= lengths).all()
            )

    check()


def who_is_not_there_stays_away(tmp_path):
    """Through every transform, in every stream; so does a joint that is not there, where bones are not taken."""

    @few
    @given(
        seed=seeds,
        skeleton=layouts,
        config=st.builds(
            ViewConfig,
            p=st.sampled_from((0.5, 1.0)),
            flip_negate_x=st.booleans(),
            spatial=st.sampled_from(get_args(Masking)),
            temporal=st.sampled_from(get_args(Masking)),
        ),
        stream=st.sampled_from(("joint", "bone", "motion")),
    )
    def check(seed, skeleton, config, stream):
        frames = torch.randn(60, 2, skeleton.num_joints, 3, generator=generator(seed))
        frames[:, 1] = 0
        frames[:, :, skeleton.center] = 0  # in no pair, so no mirror brings another there
        starts, lengths = torch.tensor([0, 25]), torch.tensor([25, 35])
        form, dice = ClipFormat(skeleton, 32, 2, 3, stream), generator(seed)
        crops = random_crops(frames, starts, lengths, config, dice, form)
        view = view_chain(config)(crops, skeleton, dice)
        assert not view[..., 1].any() and view.isfinite().all()
        assert stream == "bone" or not view[:, :, :, skeleton.center].any()

    check()


def streams_begin_with_joints(tmp_path):
    @few
    @given(seed=seeds, skeleton=layouts)
    def check(seed, skeleton):
        clips = clips_of(seed, skeleton)
        assert torch.equal(to_stream(clips, skeleton), clips)
        motion = to_stream(clips, skeleton, "motion")
        torch.testing.assert_close(
            clips[:, :, :1] + motion[:, :, :-1].cumsum(2), clips[:, :, 1:], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            to_stream(clips + 1, skeleton, "bone")[:, :, :, [c for c, _ in skeleton.bones]],
            to_stream(clips, skeleton, "bone")[:, :, :, [c for c, _ in skeleton.bones]],
            rtol=1e-4,
            atol=1e-5,
        )  # bones do not mind where the body stands

    check()


def the_queue_lets_out_first_who_came_first(tmp_path):
    @few
    @given(size=st.integers(1, 12), batches=st.lists(st.integers(0, 30), max_size=8))
    def check(size, batches):
        queue, line = Queue(size, 1), []
        queue.keys.zero_()
        for count in batches:
            keys = torch.arange(len(line) + 1, len(line) + count + 1, dtype=torch.float32)
            line += keys.tolist()
            queue.push(keys[:, None])
            there = queue.keys[:, 0].roll(-int(queue.ptr)).tolist()  # from the oldest on
            assert there == ([0.0] * size + line)[-size:] and 0 <= queue.ptr < size

    check()


def info_nce_falls_when_a_positive_nears(tmp_path):
    @few
    @given(seed=seeds, size=st.integers(1, 6), temperature=st.floats(0.05, 1))
    def check(seed, size, temperature):
        query, away, queue = (
            torch.nn.functional.normalize(
                torch.randn(n, 8, generator=generator(seed + n), dtype=torch.float64), dim=1
            )
            for n in (size, size + 10, 20)
        )
        loss = [
            info_nce(
                query,
                torch.nn.functional.normalize(torch.lerp(away[:size], query, nearer), dim=1),
                queue,
                temperature,
            )
            for nearer in torch.linspace(0, 1, 12, dtype=torch.float64)
        ]
        assert all(a > b for a, b in itertools.pairwise(loss)) and loss[-1] > 0
        assert (
            info_nce(query, query, torch.cat([queue, query]), temperature) > loss[-1]
        )  # and rises when a negative does

    check()


def encoders_do_not_mind_the_order_of_the_batch(tmp_path):
    made = [
        scd_encoder(
            EncoderConfig(frames=8, channels=8, width=8, heads=2, **change), KINECT20, persons=2
        ).eval()
        for change in (
            {},
            {"extractor": "shared"},
            {"extractor": "none"},
            {"decoupling": "projection"},
            {"decoupling": "none"},
        )
    ]

    @settings(few, max_examples=6)
    @given(seed=seeds, order=st.permutations(range(4)))
    def check(seed, order):
        clips = clips_of(seed, KINECT20, 4, 8)
        with torch.no_grad():
            for encoder in made:
                for all_, mixed, alone in zip(
                    encoder(clips), encoder(clips[order]), encoder(clips[:1]), strict=True
                ):
                    torch.testing.assert_close(mixed, all_[order], rtol=1e-4, atol=1e-5)
                    torch.testing.assert_close(alone, all_[:1], rtol=1e-4, atol=1e-5)

    check()


def a_configuration_changes_by_replacement_only(tmp_path):
    assert replace(TINY) == TINY
    with pytest.raises(dataclasses.FrozenInstanceError):
        TINY.epochs = 2


INVARIANTS = (
    read_of_a_store_is_what_was_written,
    read_of_a_skeleton_file_is_what_was_written,
    read_of_a_video_is_what_was_written,
    read_of_arrays_pickles_and_json_is_what_was_written,
    read_of_a_layout_is_what_was_written,
    read_of_a_run_is_what_was_written,
    padding_comes_off,
    masks_hide_as_many_as_they_say,
    masks_hide_what_they_say_and_nothing_else,
    masking_does_not_mind_the_order_of_the_batch,
    turning_keeps_bones_as_long_as_they_are,
    a_mirror_gives_each_bone_the_length_of_its_partner,
    a_clip_resized_to_its_own_length_is_itself,
    stretches_stay_inside_their_clip,
    who_is_not_there_stays_away,
    streams_begin_with_joints,
    the_queue_lets_out_first_who_came_first,
    info_nce_falls_when_a_positive_nears,
    encoders_do_not_mind_the_order_of_the_batch,
    a_configuration_changes_by_replacement_only,
)


@pytest.mark.parametrize(
    "invariant", INVARIANTS, ids=lambda check: check.__name__.replace("_", " ")
)
def test(invariant, tmp_path):
    invariant(tmp_path)

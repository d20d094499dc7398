"""Every part of training that can be passed in: augmentation, encoder, loss, auxiliary loss, callbacks."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from small import TINY, random_walks
from torch import nn

from scdnet.training.cross_domain import Contrast, CrossDomainLoss
from scdnet.training.loss import info_nce
from scdnet.training.pretrain import pretrain
from scdnet.training.run import Run, load_encoder
from scdnet.utils.files import InputError

CONFIG = replace(TINY, epochs=3)  # nine steps
WIDTH = 16


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return random_walks(
        tmp_path_factory.mktemp("store") / "store", half=(slice(0, 24), slice(24, 32))
    )


def train(store, out, **options):
    return pretrain(store, "half", CONFIG, out, progress=False, **options)


class StopOnce:
    """Asks the run to stop after its fourth step, as a terminal would."""

    def on_step(self, trainer):
        if trainer.steps_done == 4:
            os.kill(os.getpid(), signal.SIGTERM)


def stopped_and_resumed(store, out, **options):
    """A run that is stopped in its second epoch; `options` makes the parts anew for each process."""
    with pytest.raises(SystemExit):
        train(store, out, **options["first"], callbacks=[StopOnce()])
    return train(store, out, **options["second"], resume=True)


def same_weights(one, other):
    a, b = (load_file(run / "encoder.safetensors") for run in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# an augmentation


class Halve:
    """Halves all coordinates; counts its calls."""

    calls = 0

    def __call__(self, clips, skeleton, generator):
        self.calls += 1
        assert clips.dim() == 5 and skeleton.num_joints == clips.shape[3]
        return clips / 2


def test_an_augmentation(store, tmp_path):
    halve, sizes = Halve(), []

    class Watch:
        def on_step(self, trainer):
            sizes.append(trainer.losses["loss"])

    run = train(store, tmp_path / "run", transforms=halve, callbacks=[Watch()])
    assert halve.calls >= 9 and len(sizes) == 9
    assert Run.open(run).facts["passed_in"] == {"transforms": "Halve"}
    with pytest.raises(InputError, match="transforms passed in \\(was Halve, now None\\)"):
        train(store, run, resume=True)


# an encoder


class Small(nn.Module):
    """A backbone of four lines: mean position and mean motion of each joint."""

    width = WIDTH

    def __init__(self):
        super().__init__()
        self.where, self.moves = nn.Linear(60, WIDTH), nn.Linear(60, WIDTH)

    def forward(self, clips):
        motion = clips.diff(dim=2).abs().mean(2)
        return self.where(clips.mean(2).flatten(1)), self.moves(motion.flatten(1))


def made(seed=0):
    torch.manual_seed(seed)
    return Small()


def test_an_encoder_is_trained_resumed_and_loaded(store, tmp_path):
    whole = train(store, tmp_path / "whole", encoder=made())
    cut = stopped_and_resumed(
        store, tmp_path / "cut", first={"encoder": made()}, second={"encoder": made(seed=7)}
    )
    assert same_weights(whole, cut)
    encoder = load_encoder(whole, encoder=Small())
    clips = encoder.format.clips(store, range(4))
    assert [z.shape for z in encoder(clips)] == [(4, WIDTH), (4, WIDTH)] and not encoder.training
    first = Run.open(whole).initial(encoder=Small())
    assert torch.equal(first.where.weight, made().where.weight)
    assert not torch.equal(first.where.weight, encoder.where.weight)


def test_an_encoder_that_was_passed_in_is_asked_for(store, tmp_path):
    run = train(store, tmp_path / "run", encoder=made())
    with pytest.raises(InputError, match=r"was trained with an encoder .* of class Small"):
        load_encoder(run)
    with pytest.raises(InputError, match="encoder passed in \\(was Small, now None\\)"):
        train(store, run, resume=True)
    other = Small()
    other.where = nn.Linear(60, WIDTH + 1)
    with pytest.raises(
        InputError, match=r"does not hold the encoder that was passed in: where.bias has the shape"
    ):
        load_encoder(run, encoder=other)
    usual = train(store, tmp_path / "usual")
    with pytest.raises(InputError, match=r"does not hold the encoder that was passed in"):
        load_encoder(usual, encoder=Small())


# a loss


class Direct:
    """InfoNCE of each clue with itself."""

    clues = "st"

    def __call__(self, queries, keys, queues):
        loss = sum(info_nce(queries[d], keys[d], queues[d]) for d in self.clues)
        return Contrast(loss, torch.zeros(()))

    def collapsed(self, queue_size):
        return CrossDomainLoss((("s", "s"), ("t", "t"))).collapsed(queue_size)


def test_a_loss(store, tmp_path):
    seen = []

    class Watch:
        def on_end(self, trainer):
            seen.extend(trainer.model.queues)

    mine = train(store, tmp_path / "mine", loss=Direct(), callbacks=[Watch()])
    paper = CrossDomainLoss((("s", "s"), ("t", "t")))
    theirs = train(store, tmp_path / "theirs", loss=paper)
    assert seen == ["s", "t"] and same_weights(mine, theirs)
    assert Run.open(mine).facts["passed_in"] == {"loss": "Direct"}


# an auxiliary loss


class Reconstruct(nn.Module):
    """Predicts the clip's mean pose from the mean of its temporal tokens."""

    weight = 0.1

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.decode = nn.Linear(WIDTH, 60)

    def forward(self, tokens, clean):
        tokens_s, tokens_t = tokens
        assert tokens_s.shape[::2] == tokens_t.shape[::2] == (len(clean), WIDTH)
        return (self.decode(tokens_t.mean(1)) - clean.mean(2).flatten(1)).square().mean()


def test_an_auxiliary_loss(store, tmp_path):
    auxiliary, before = Reconstruct(), Reconstruct().decode.weight
    whole = train(store, tmp_path / "whole", auxiliary=auxiliary)
    assert not torch.equal(auxiliary.decode.weight, before)
    logged = Run.open(whole).metrics()["auxiliary"]
    assert len(logged) == 3 and (logged > 0).all()
    again = Reconstruct()
    cut = stopped_and_resumed(
        store, tmp_path / "cut", first={"auxiliary": Reconstruct()}, second={"auxiliary": again}
    )
    assert same_weights(whole, cut) and torch.equal(again.decode.weight, auxiliary.decode.weight)
    assert not same_weights(whole, train(store, tmp_path / "plain"))


# callbacks


def test_callbacks(store, tmp_path):
    calls = []

    class Monitor:
        def on_step(self, trainer):
            calls.append(("step", trainer.steps_done))
            assert set(trainer.losses) == {"loss", "accuracy", "gradient"}

        def on_epoch(self, trainer):
            calls.append(("epoch", trainer.epoch))
            trainer.encoder.eval()  # the trainer puts it back
            torch.manual_seed(0)  # and does not depend on the caller's random numbers
            trainer.log(nearest=50.0 + trainer.epoch)

        def on_end(self, trainer):
            calls.append(("end", trainer.steps_done))

    run = train(store, tmp_path / "run", callbacks=[Monitor(), object()])
    assert calls == [
        *[("step", n) for n in (1, 2, 3)],
        ("epoch", 1),
        *[("step", n) for n in (4, 5, 6)],
        ("epoch", 2),
        *[("step", n) for n in (7, 8, 9)],
        ("epoch", 3),
        ("end", 9),
    ]
    assert Run.open(run).metrics()["nearest"].tolist() == [51, 52, 53]
    assert same_weights(run, train(store, tmp_path / "plain"))


def test_early_stopping(store, tmp_path):
    class Enough:
        def on_epoch(self, trainer):
            trainer.stopping = trainer.epoch == 2

    run = train(store, tmp_path / "run", callbacks=[Enough()])
    assert Run.open(run).metrics()["epoch"].tolist() == [1, 2]
    assert (run / "encoder.safetensors").is_file()
    state = json.loads((run / "checkpoint/step-00000006/state.json").read_text())
    assert state["steps_done"] == 6 and state["sums"] == {}

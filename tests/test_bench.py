"""The command `bench`: what it refuses, and what it writes."""

import copy
import json

import pytest
import torch
from commands import assert_mistake, scdnet
from torch import nn

from scdnet.old import bench
from scdnet.old.bench import BenchConfig
from scdnet.model.encoder import Encoder, EncoderConfig
from scdnet.model.gcn import Extractor, compile_blocks
from scdnet.training.config import PretrainConfig
from scdnet.data.layouts import KINECT20


@pytest.mark.parametrize(
    "words, said",
    [
        (("--repeats", "0"), "repeats"),
        (("--batch-size", "1"), "batch_size"),
        (("--device", "toaster"), "toaster"),
        (("--json", "nowhere/bench.json"), "nowhere"),
    ],
)
def test_bench_refuses(words, said, tmp_path):
    assert_mistake(scdnet("bench", *words, cwd=tmp_path), said)
    assert list(tmp_path.iterdir()) == []


def test_bench_keeps_a_file(tmp_path):
    (tmp_path / "bench.json").write_text("mine")
    assert_mistake(scdnet("bench", "--json", "bench.json", cwd=tmp_path), "exists already")
    assert (tmp_path / "bench.json").read_text() == "mine"


def test_bench_writes_every_stage(tmp_path, monkeypatch):
    tiny = PretrainConfig(
        batch_size=8, queue_size=16, encoder=EncoderConfig(frames=16, channels=8, width=32)
    )
    monkeypatch.setitem(bench.PRESETS, "demo", tiny)
    done = scdnet("bench", "--repeats", "1", "--json", "bench.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "bench.json").read_text())
    assert result["command"] == "scdnet bench --repeats 1" and result["config"]["batch_size"] == 8
    assert [s["stage"] for s in result["stages"]] == [
        "read and normalise a file",
        "two views",
        "encoding, two persons",
        "encoding",
        "pretraining step",
        "linear protocol",
        "nearest neighbours",
    ]
    for stage in result["stages"]:
        assert stage["versions"]["plain"]["ratio"] == 1 and all(
            v["seconds"] > 0 for v in stage["versions"].values()
        )
        assert stage["stage"] in done.stdout
    assert BenchConfig().preset == "demo"


def test_a_compiler_can_follow_the_encoder():
    """Traced for torch.compile, a training step has the loss, the gradient and the running statistics of the eager one."""

    def step(compiled):
        torch.manual_seed(0)
        encoder = Encoder(
            EncoderConfig(frames=16, channels=8, width=16, heads=4, dropout=0.0), KINECT20, 1
        )
        if compiled:
            compile_blocks(encoder, backend="aot_eager")
        sum(clue.square().sum() for clue in encoder(torch.randn(4, 3, 16, 20, 1))).backward()
        return {name: value.grad for name, value in encoder.named_parameters()}, dict(
            encoder.named_buffers()
        )

    for eager, traced in zip(step(False), step(True)):
        torch.testing.assert_close(traced, eager, rtol=1e-3, atol=1e-4)


def test_extractors_share_what_is_compiled():
    """Two extractors are six blocks of three sizes; whether a second person is there is another matter."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.manual_seed(0)
    pair, clips = (
        nn.ModuleList([Extractor(KINECT20, 2, channels=8) for _ in range(2)]).requires_grad_(False),
        torch.randn(4, 3, 16, 20, 2),
    )
    clips[1:, ..., 1] = 0
    plain = copy.deepcopy(pair)
    compile_blocks(pair, count)
    for compiled, eager in zip(pair, plain):
        torch.testing.assert_close(compiled(clips), eager(clips), rtol=1e-3, atol=1e-4)
    assert len(graphs) == 3

"""The encoder: `accelerate` changes no number, a compiler and ONNX can follow, own parts can be passed in."""

import copy
from dataclasses import replace

import pytest
import torch
from small import random_walks
from torch import nn

from scdnet.data.layouts import KINECT20, NTU25
from scdnet.evaluation.features import calibrate
from scdnet.model.encoder import Branch, Encoder, EncoderConfig, Projector, scd_encoder
from scdnet.model.fast import accelerate
from scdnet.utils.files import InputError

SMALL = EncoderConfig(frames=16, channels=8, width=16, heads=4, dropout=0.0)


def stirred(module):
    """Parameters moved away from 0, 1 and 1e-6, so that every part takes part."""
    generator = torch.Generator().manual_seed(0)
    for name, value in module.named_parameters():
        if value.dim() == 1:
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            value.data.copy_(0.3 * noise + ("norm" in name and name.endswith("weight")))
        if name.endswith("alpha"):
            value.data.fill_(0.7)
    return module


def clips_of(present, dtype=torch.double, persons=2):
    """Clips of noise (N, C, T, V, M), of which the persons are present who are named, (N, M)."""
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(len(present), 3, 16, 25, persons, generator=generator, dtype=dtype)
    return clips * torch.tensor(present)[:, None, None, None]


COMPANY = {
    "everyone": [[1, 1]] * 4,
    "one each": [[1, 0]] * 4,
    "some": [[1, 1], [1, 0], [1, 0], [1, 1]],
    "either": [[1, 0], [0, 1], [1, 1], [1, 0]],
    "an empty clip": [[1, 1], [0, 0], [1, 0], [1, 1]],
    "nobody": [[0, 0]] * 4,
}


def outcome(branch, clips):
    """Outputs, gradients and running statistics of a step."""
    branch.zero_grad()
    z = torch.cat(branch.encoder(clips), 1)
    weights = torch.linspace(-1, 1, z.numel(), dtype=z.dtype).view_as(z)
    (z * weights.sin()).sum().backward()
    gradients = {f"{n}, gradient": p.grad for n, p in branch.encoder.named_parameters()}
    return {"z": z.detach()} | gradients | dict(branch.encoder.named_buffers())


@pytest.mark.parametrize("inputs", ["stream", "fused"])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("company", COMPANY)
def test_accelerate_changes_no_number(company, train, inputs):
    torch.manual_seed(0)
    encoder = scd_encoder(replace(SMALL, inputs=inputs), NTU25)
    plain = stirred(Branch(encoder, Projector(16, 8)).double()).train(train)
    fast = copy.deepcopy(accelerate(copy.deepcopy(plain)))
    assert list(fast.state_dict()) == list(plain.state_dict())
    clips = clips_of(COMPANY[company])
    expected, found = outcome(plain, clips), outcome(fast, clips)
    for name, value in expected.items():
        scale = 1 + value.abs().max() if value.is_floating_point() else 1
        assert ((found[name] - value).abs() / scale).max() < 1e-9, name


def test_accelerate_under_autocast():
    torch.manual_seed(0)
    plain = stirred(scd_encoder(SMALL, NTU25))
    fast = accelerate(copy.deepcopy(plain))
    clips = clips_of(COMPANY["some"], torch.float)
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(fast(clips), plain(clips), strict=True):
            assert (a - b).norm() < 0.05 * b.norm()


def test_accelerate_counts_over_several_batches(tmp_path):
    """`calibrate` averages statistics over batches: the same for both."""
    store = random_walks(tmp_path / "store", half=(slice(0, 16), slice(16, 32)))
    torch.manual_seed(0)
    plain = stirred(scd_encoder(SMALL, KINECT20, persons=1))
    fast = accelerate(copy.deepcopy(plain))
    for encoder in (plain, fast):
        calibrate(encoder, store, store.split("half")[0], batch_size=5)
    for (name, a), b in zip(fast.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


def test_a_compiler_can_follow_the_encoder():
    """Compiled, a training step has the gradients and running statistics of the eager one."""
    torch.manual_seed(0)
    eager = stirred(scd_encoder(SMALL, NTU25))
    compiled = copy.deepcopy(eager)
    compiled.compile(backend="aot_eager", fullgraph=True)
    for encoder in (eager, compiled):
        clips = clips_of(COMPANY["some"], torch.float)
        sum(clue.square().sum() for clue in encoder(clips)).backward()
    for (name, a), b in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-3, msg=name)
    torch.testing.assert_close(dict(compiled.named_buffers()), dict(eager.named_buffers()))


def test_export_meets_no_branch_on_data():
    """One exported graph serves clips of one and of two persons."""
    torch.manual_seed(0)
    encoder = stirred(scd_encoder(SMALL, NTU25)).eval()
    clips = clips_of(COMPANY["some"], torch.float)
    program = torch.export.export(encoder, (clips,)).module()
    for company in COMPANY.values():
        clips = clips_of(company, torch.float)
        torch.testing.assert_close(program(clips), encoder(clips))


class Limbs(nn.Module):
    """A backbone from outside: a linear map of each frame; tokens are the frames."""

    def __init__(self, width):
        super().__init__()
        self.width, self.map = width, nn.LazyLinear(width)

    def forward(self, clips):
        return self.map(clips.permute(0, 2, 1, 3, 4).flatten(2))


def test_own_parts():
    encoder = Encoder(nn.Identity(), None, Limbs(12), Limbs(12))
    clips = torch.randn(4, 2, 10, 7, 1)
    z_s, z_t = encoder(clips)
    tokens_s, tokens_t = encoder.tokens(clips)
    assert encoder.width == 12 and z_s.shape == z_t.shape == (4, 12)
    assert torch.equal(tokens_s.amax(1), z_s) and tokens_t.shape == (4, 10, 12)
    assert [q.shape for q in Branch(encoder, Projector(12, 8))(clips)] == [(4, 8)] * 3


@pytest.mark.parametrize("parts", ["extractor", "decoupling"])
def test_variants(parts):
    """Table 5: tokens and clues of every variant; only what is left out is missing."""
    for value in ("separate", "shared", "none") if parts == "extractor" else ("projection", "none"):
        width = 8 if value == "none" and parts == "decoupling" else 16
        config = EncoderConfig(frames=16, channels=8, width=width, heads=4, **{parts: value})
        z_s, z_t = scd_encoder(config, NTU25).eval()(torch.randn(3, 3, 16, 25, 2))
        assert z_s.shape == z_t.shape == (3, width)


def test_another_shape_is_refused():
    encoder = scd_encoder(SMALL, KINECT20, persons=1)
    for shape in ((5, 2, 16, 20, 1), (5, 3, 16, 20), (5, 3, 32, 20, 1)):
        with pytest.raises(InputError, match=r"expects \(N, C, T, V, M\) = \(N, 3, 16, 20, 1\)"):
            encoder(torch.zeros(shape))


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 6},
        {"gcn_layers": 1},
        {"width": 30},
        {"dropout": 1.0},
        {"frames": 0},
        {"decoupling": "none"},
        {"decoupling": "none", "extractor": "none"},
        {"extractor": "both"},
        {"projection": 2_000_000},
    ],
)
def test_a_configuration_that_makes_no_encoder_is_refused(wrong):
    with pytest.raises(InputError) as told:
        EncoderConfig(**wrong)
    assert str(told.value).startswith(tuple(wrong) + ("width",)) and "\n" not in str(told.value)


def test_initial_weights():
    """He's rule over the fan-out of each small convolution, also where several stand side by side."""
    torch.manual_seed(0)
    block = scd_encoder(EncoderConfig(), NTU25).extract_t.blocks[1]
    expected = {
        "source": 2 / 8,
        "target": 2 / 8,
        "value": 2 / 256,
        "expand": 2 / 256,
        "reduce": 2 / 64,
        "narrow": 2 / (64 * 5),
        "wide": 2 / (64 * 5),
    }
    for name, variance in expected.items():
        part = getattr(block.space, name, None) or getattr(block.time, name)
        assert abs(part.weight.var() / variance - 1) < 0.1, name
        assert (part.bias == 0).all()
    assert block.space.alpha == 0 and (block.space_norm.weight == 1e-6).all()

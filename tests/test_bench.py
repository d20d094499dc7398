"""benchmarks/bench.py: what it measures, and which options it refuses."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from scdnet.model.encoder import EncoderConfig
from scdnet.training.config import PRESETS

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "bench.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("bench", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_stage_is_timed(script, tmp_path, monkeypatch, capsys):
    small = EncoderConfig(frames=16, channels=8, width=32)
    tiny = replace(PRESETS["demo"], batch_size=4, queue_size=16, encoder=small)
    monkeypatch.setitem(PRESETS, "demo", tiny)
    path = tmp_path / "bench.json"
    assert script.main(["--repeats", "1", "--device", "cpu", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert result["batch_size"] == 4 and result["machine"]["gpu"]
    stages = {row["stage"] for row in result["stages"]}
    assert stages == {"two views", "pretraining step", "encoding", "1-NN, 4096 in 4096"}
    for row in result["stages"]:
        assert row["ms"] > 0 and row["clips/s"] > 0 and row["ratio"] > 0
    steps = [row["version"] for row in result["stages"] if row["stage"] == "pretraining step"]
    assert steps == ["plain fp32", "accelerated fp32", "plain bf16", "accelerated bf16"]
    assert "accelerated bf16" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["--repeats", "0"], "--repeats"),
        (["--batch-size", "1"], "--batch-size"),
        (["--device", "toaster"], "toaster"),
        (["--json", "mine.json"], "exists already"),
    ],
)
def test_mistakes_are_refused(script, words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        script.main(words)
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert Path("mine.json").read_text() == "mine"

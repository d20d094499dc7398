"""The Python half of the widgets: what they send, what they answer, what they leave where nothing runs. The browser's half: test_browser.py."""

import base64
import io
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from scdnet.data.layouts import KINECT20, NTU25
from scdnet.utils.files import InputError
from scdnet.viz.explorers import ClueExplorer, MaskExplorer, ViewExplorer
from scdnet.viz.player import SkeletonPlayer

VIEW = "application/vnd.jupyter.widget-view+json"
walk = np.cumsum(np.random.default_rng(0).normal(size=(12, 2, 25, 3)), 0)


def sent(widget):
    """The traits as a message to the browser carries them."""
    return {name: value for name, value in widget.get_state().items() if not name.startswith("_")}


@pytest.mark.parametrize(
    "make",
    [
        lambda: SkeletonPlayer([walk, walk[:5, :1]], NTU25, titles=["a", "b"]),
        lambda: MaskExplorer(draw=2),
        lambda: MaskExplorer(KINECT20, frames=20),
        lambda: ViewExplorer(walk),
        lambda: ClueExplorer(
            walk[:, 0, :, 0], walk[:, 0, :, 1], pd.DataFrame({"class": range(12)})
        ),
    ],
)
def test_a_picture_stands_in_for_the_widget(make):
    bundle, _ = make()._repr_mimebundle_()
    assert VIEW in bundle and len(bundle["text/plain"]) < 110
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert (
        len(bundle["image/png"]) < 100_000
        and picture.width > 300
        and len(set(picture.convert("L").getdata())) > 5
    )  # something is drawn


def test_coordinates_travel_as_bytes_and_the_rest_as_json():
    state = sent(SkeletonPlayer([walk, walk[:5, :1]], NTU25, titles=["a", "b"]))
    raw = {name for name, value in state.items() if isinstance(value, (bytes, memoryview))}
    assert raw == {"points", "masked"} and len(state["points"]) == (12 * 2 + 5) * 25 * 3 * 4
    assert len(json.dumps({name: value for name, value in state.items() if name not in raw})) < 3000


def test_clips_stay_on_their_canvas_however_they_are_turned():
    points = np.frombuffer(SkeletonPlayer([walk, 3 * walk + 100], NTU25).points, "<f4").reshape(
        -1, 3
    )
    assert (points[:, :2] ** 2).sum(1).max() <= 1.0001 and abs(points[:, 2]).max() <= 1


def test_what_is_missing_is_not_sent_as_a_place():
    holed = walk.copy()
    holed[:, 1] = 0
    holed[3, 0, 7] = 0
    points = np.frombuffer(SkeletonPlayer(holed, NTU25).points, "<f4").reshape(12, 2, 25, 3)
    assert (np.isnan(points).all(-1) == (holed == 0).all(-1)).all()


def test_masks_of_one_clip_leave_the_others_alone():
    mask = np.zeros((12, 25), bool)
    mask[2, 3] = True
    player = SkeletonPlayer([walk, walk], NTU25, titles=["plain", "masked"], masked=[None, mask])
    assert (
        np.frombuffer(player.masked, bool).reshape(2, 12, 25) == [np.zeros_like(mask), mask]
    ).all()


def test_a_slider_answers_once_and_other_sliders_stay():
    explorer, answers = MaskExplorer(draw=1), []
    explorer.observe(lambda change: answers.append(change["new"]["text"]), "shown")
    explorer.k = 3
    assert (
        len(answers) == 1
        and answers[0].startswith("3 of 25 joints hidden: ")
        and (explorer.n, explorer.s, explorer.r) == (2, 16, 6)
    )


def test_what_the_browser_sets_together_is_checked_together():
    explorer = MaskExplorer()
    explorer.set_state({"s": 4, "r": 4})
    assert explorer.masks()[1].all()
    explorer.set_state({"spatial": "random", "chosen": []})
    assert explorer.shown["seeds"] == [] and "score 0" not in explorer.shown["text"]
    explorer.set_state({"spatial": "structural", "chosen": [5, 7]})
    assert explorer.shown["seeds"] == [5, 7] and "seeds=(5, 7)" in explorer.shown["code"]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"k": 26}, "k is 26, expected 0 to 25"),
        ({"s": 65}, "s is 65, expected 1 to 64"),
        ({"seeds": 0}, "seeds is 0, expected 1 to 25"),
    ],
)
def test_a_value_that_cannot_be_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        MaskExplorer(**options)
    explorer = MaskExplorer()
    with pytest.raises(InputError, match=said):
        explorer.set_trait(*next(iter(options.items())))
    assert explorer.code() == MaskExplorer().code()  # and leaves everything as it was


def test_view_k_is_another_draw_than_view_q_and_a_step_that_is_out_changes_nothing():
    explorer = ViewExplorer(walk)
    arrays = explorer.player._arrays
    assert (
        len(arrays) == 14
        and np.array_equal(arrays[0], arrays[7])
        and not any(np.array_equal(q, k) for q, k in zip(arrays[2:7], arrays[9:14], strict=True))
    )
    for box in explorer.steps.values():
        box.value = False
    arrays = explorer.player._arrays
    assert (
        all(np.array_equal(arrays[1], other) for other in arrays[2:7] + arrays[8:14])
        and explorer.player.masked == b""
    )
    assert explorer.code.value.count("ViewConfig(crop_low=1.0)") == 2
    assert explorer.code.value.count("Chain()") == 2


def test_maps_alone_need_no_clips():
    places = np.random.default_rng(0).normal(size=(5, 2))
    explorer = ClueExplorer(
        places,
        places * [1, -1],
        pd.DataFrame({"class": list("abaab"), "speed": [0.0, 1, 2, 3, 4]}),
        skeleton=KINECT20,
    )
    explorer.set_trait("picked", [1, 2])
    assert (
        explorer.clips == []
        and not explorer.playable
        and list(explorer.columns) == ["class", "speed"]
    )
    spatial, temporal = explorer.places
    assert np.abs(spatial).max() == 1 and np.allclose(spatial * [1, -1], temporal)
    assert explorer.maps.count("<path") == 10


def test_two_explorers_share_nothing():
    one, two = MaskExplorer(), MaskExplorer()
    one.set_trait("chosen", [3])
    one.k = 1
    assert two.chosen == [] and two.k == 8 and two.shown != one.shown


def test_stored_notebooks_hold_pictures_and_no_widget_whose_kernel_is_gone():
    for path in sorted((Path(__file__).parents[1] / "nbs").rglob("*.ipynb")):
        outputs = [
            output.get("data", {})
            for cell in json.loads(path.read_text())["cells"]
            for output in cell.get("outputs", [])
        ]
        assert not [data for data in outputs if VIEW in data], f"{path.name}: make notebooks"
        if path.stem in ("03_player", "04_explorers"):
            assert sum("image/png" in data for data in outputs) >= 2


def test_the_hand_written_files_of_the_browser_are_in_the_package():
    """They lie beside the exported modules, so that a wheel holds them and an export leaves them alone."""
    folder = files("scdnet.viz") / "static"
    kinds = {Path(str(path)).suffix for path in folder.iterdir()}
    assert kinds == {".js", ".css", ".html"}
    for widget in (SkeletonPlayer, MaskExplorer, ClueExplorer):
        assert "export default" in widget.__dict__["_esm"] and "http" not in widget.__dict__["_esm"]

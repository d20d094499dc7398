"""The widgets in a real browser: Chromium on a real JupyterLab, both on this machine. Skipped where there is no Chromium or no playwright.

Screenshots and the times that were measured are kept in the folder `browser/`, which git ignores.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from conftest import CHROMIUM

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "browser"
pytest.importorskip(
    "playwright.sync_api", reason="no playwright: pip install -c constraints.txt -e '.[dev]'"
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: apt-get install chromium fonts-dejavu-core"
)
HARMLESS = (
    "favicon",
    "Failed to load resource: the server responded with a status of 404",
)  # what a bare JupyterLab says by itself


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A JupyterLab server on loopback, in an empty folder: (folder, address, token). Ended by its own handle."""
    home = tmp_path_factory.mktemp("lab")
    folder, settings = home / "notebooks", home / "app-settings"
    folder.mkdir(), settings.mkdir()
    (settings / "overrides.json").write_text(
        json.dumps({"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}})
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, address = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    own = {
        name: str(home / name.lower())
        for name in (
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_RUNTIME_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
            "IPYTHONDIR",
        )
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        "--LabApp.expose_app_in_browser=True",
        f"--LabApp.app_settings_dir={settings}",
    ]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            env=os.environ | own | {"OMP_NUM_THREADS": "1"},
        )
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{address}/api/status?token={token}", timeout=5)
                    break
                except OSError:
                    assert server.poll() is None, (home / "log").read_text()
                    time.sleep(0.5)
            yield folder, address, token
        finally:
            server.terminate()
            server.wait(30)


class Book:
    """A notebook open in JupyterLab."""

    def __init__(self, lab, chromium, notebook, **look):
        folder, self.address, self.token = lab
        self.page, self.errors = (
            chromium.new_page(viewport={"width": 1300, "height": 1000}, **look),
            [],
        )
        self.page.on(
            "console",
            lambda message: self.errors.append(message.text) if message.type == "error" else None,
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.set_default_timeout(240_000)
        if not isinstance(notebook, Path):  # a list of cells
            name = secrets.token_hex(4) + ".ipynb"
            nbformat.write(
                nbformat.v4.new_notebook(
                    cells=[nbformat.v4.new_code_cell(cell) for cell in notebook],
                    metadata={"kernelspec": {"name": "python3", "display_name": "python3"}},
                ),
                folder / name,
            )
        else:
            name = shutil.copy(notebook, folder / notebook.name).name
        self.page.goto(f"{self.address}/doc/tree/{name}?token={self.token}&reset")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.idle()

    def idle(self):
        """Wait until the kernel has nothing to do."""
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )

    def run(self):
        """Run all cells; the errors that are then in the notebook."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        self.idle()
        return self.page.evaluate("""() => window.jupyterapp.shell.currentWidget.content.model.toJSON().cells
            .flatMap(cell => cell.outputs || []).filter(output => output.output_type === 'error').map(output => output.evalue)""")

    def restart(self):
        self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
        )
        self.idle()

    def pictures(self, i=0):
        """How often the i-th explorer has shown an answer of Python's."""
        return int(self.page.locator("[data-pictures]").nth(i).get_attribute("data-pictures"))

    def answered(self, before, i=0):
        """Wait for a picture that is not among the `before`."""
        self.page.wait_for_function(
            "([i, n]) => document.querySelectorAll('[data-pictures]')[i].dataset.pictures > n",
            arg=[i, before],
        )

    def press(self, label, key, i=0):
        """A key on the slider `label` of the i-th explorer; returns when the new picture is there."""
        before = self.pictures(i)
        self.page.locator(f'[data-pictures] input[aria-label^="{label}"]').nth(i).focus()
        self.page.keyboard.press(key)
        self.answered(before, i)

    def python(self, code):
        """What the kernel prints when asked; asked beside the notebook, in no cell."""
        return self.page.evaluate(
            """async code => {
            const future = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({code, store_history: false});
            let text = "";
            future.onIOPub = m => { text += m.content.text || (m.content.traceback || []).join("\\n"); };
            await future.done;
            return text.trim(); }""",
            code,
        )

    def says(self, code, expected):
        """Wait until the kernel prints what is expected: what the browser sends may still be on its way."""
        for _ in range(100):
            said = self.python(code)
            if said == expected:
                return
            self.page.wait_for_timeout(200)
        raise AssertionError(f"{code}: {said}, expected {expected}")

    def picture(self, name):
        KEPT.mkdir(exist_ok=True)
        self.page.screenshot(path=KEPT / f"{name}.png")

    def close(self):
        kept, self.errors = [e for e in self.errors if not any(h in e for h in HARMLESS)], []
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()
        assert kept == [], "the console of the browser"


@pytest.fixture
def book(lab, chromium):
    opened = []

    def open_book(notebook, **look):
        opened.append(Book(lab, chromium, notebook, **look))
        return opened[-1]

    yield open_book
    for one in opened:
        one.close()


PLAYER = """from scdnet.viz.player import SkeletonPlayer
from scdnet.data.layouts import NTU25
from scdnet.data.mannequin.perform import sample_clip
player = SkeletonPlayer([sample_clip(23), sample_clip(58)], NTU25, titles=["waving", "shaking hands"], azimuth=30)
player"""
EXPLORER = """from scdnet.viz.explorers import MaskExplorer
explorer = MaskExplorer(draw=3)
explorer"""
STATE = "print(explorer.n, explorer.k, explorer.spatial, explorer.chosen, explorer.masks()[0].nonzero()[0].tolist())"
WHERE = """import numpy as np
def where(joint, size):
    x = np.frombuffer(explorer.points, '<f4').reshape(-1, 25, 3)[explorer.frame, joint]
    e = np.deg2rad(explorer.elevation)
    return size/2*(1 + .96*x[0]), size/2*(1 - .96*(x[2]*np.cos(e) + x[1]*np.sin(e)))
print(*where(%d, explorer.size))"""
RATE = """async seconds => {
    const root = document.querySelector('[data-drawn]'), from = +root.dataset.drawn, begin = performance.now();
    await new Promise(done => setTimeout(done, 1000 * seconds));
    return (root.dataset.drawn - from) / (performance.now() - begin) * 1000; }"""
CLOCK = """() => {                                           // from a slider's event to the frame after its answer is painted, in ms
    const root = document.querySelector('[data-pictures]');
    let begin = null;
    window.measured = [];
    root.addEventListener('input', event => { begin ??= event.timeStamp; }, true);
    new MutationObserver(() => requestAnimationFrame(() => setTimeout(() => {
        if (begin !== null) window.measured.push(performance.now() - begin);
        begin = null; }))).observe(root, {attributes: true, attributeFilter: ['data-pictures']}); }"""


def busy():
    """Whether others work on this machine: a time then says nothing."""
    return os.getloadavg()[0] > os.cpu_count()


def keep(name, **figures):
    """Write what was measured to a file beside the screenshots, with the load of the machine."""
    KEPT.mkdir(exist_ok=True)
    (KEPT / f"{name}.json").write_text(
        json.dumps(
            figures | {"load": round(os.getloadavg()[0], 1), "cores": os.cpu_count()}, indent=1
        )
        + "\n"
    )


def test_the_player_plays(book):
    b = book([PLAYER])
    assert b.run() == []
    b.page.wait_for_selector("[data-drawn] canvas")
    rate = max(b.page.evaluate(RATE, 1) for _ in range(5))
    keep("player", pictures_a_second=round(rate, 1))
    b.picture("player")
    assert rate > (0 if busy() else 10)  # 60 where the machine has time
    b.page.get_by_role("button", name="pause").press("Enter")  # by keyboard
    b.page.get_by_role("button", name="play").wait_for()
    b.page.get_by_role("slider", name="frame").focus()
    b.page.keyboard.press("Home")
    b.page.keyboard.press("ArrowRight")
    b.says("print(player.frame, player.playing)", "1 False")
    assert b.page.evaluate(RATE, 0.5) == 0  # a pause is a pause
    b.page.locator("[data-drawn] canvas").first.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
        b.page.keyboard.press(key)
    b.says("print(player.azimuth, player.elevation)", "35.0 -2.0")
    b.python("player.frame = 60")
    b.page.wait_for_function("() => document.querySelector('[data-drawn] input').value === '60'")
    b.python("player.playing = True")
    b.page.get_by_role("button", name="pause").wait_for()
    left = """async () => {                                     // a player that is gone stops its loop
        const root = document.querySelector('[data-drawn]');
        await window.jupyterapp.commands.execute('notebook:delete-cell');
        await new Promise(done => setTimeout(done, 1000));
        const then = root.dataset.drawn;
        await new Promise(done => setTimeout(done, 1000));
        return [root.isConnected, root.dataset.drawn - then]; }"""
    assert b.page.evaluate(left) == [False, 0]


def test_a_page_without_python_plays(chromium, tmp_path):
    """An animation of a report: the same player, whose data lie in the page, under a policy that forbids all requests."""
    from scdnet.data.layouts import NTU25
    from scdnet.data.mannequin.perform import sample_clip
    from scdnet.viz.draw import animate
    from scdnet.viz.html import page

    clips = [sample_clip(23), sample_clip(58)]
    moving = animate(clips, NTU25, titles=["waving", "shaking hands </script>"]).data
    (tmp_path / "page.html").write_text(page("Moving", "", [("Clips", "", moving)]))
    window, errors = chromium.new_page(), []
    window.on("pageerror", lambda error: errors.append(str(error)))
    window.on("console", lambda message: errors.append(message.text))
    window.goto((tmp_path / "page.html").as_uri())
    window.locator(".stage canvas").nth(1).wait_for()
    assert window.locator("figcaption").all_text_contents()[1] == "shaking hands </script>"
    window.wait_for_function("() => +document.querySelector('[data-drawn]').dataset.drawn > 3")
    window.get_by_role("button", name="pause").press("Enter")
    window.get_by_role("button", name="play").wait_for()
    slider = window.get_by_role("slider", name="frame")
    slider.focus()
    window.keyboard.press("Home")
    window.keyboard.press("ArrowRight")
    assert window.locator(".clock").text_content() == "frame 1, 0.03 s"
    canvas = window.locator(".stage canvas").first
    before = canvas.evaluate("canvas => canvas.toDataURL()")
    canvas.focus()
    window.keyboard.press("ArrowRight")  # turns the view
    assert canvas.evaluate("canvas => canvas.toDataURL()") != before and errors == []
    KEPT.mkdir(exist_ok=True)
    window.screenshot(path=KEPT / "page.png")
    window.close()


def test_the_masks_follow_a_slider_and_a_click(book):
    b = book([EXPLORER])
    assert b.run() == []
    b.page.wait_for_selector("[data-pictures] canvas")
    before = b.python(STATE)
    b.press("n, ", "ArrowRight")
    b.press("k, ", "ArrowLeft")
    b.says("print(explorer.n, explorer.k)", "3 7")
    assert b.python(STATE) != before
    b.page.get_by_role("button", name="pause").click()
    b.says("print(explorer.playing)", "False")

    elbow, said = (
        5,
        b.page.locator("[data-pictures] svg").nth(1).get_attribute("aria-label"),
    )  # of the frames
    x, y = map(float, b.python(WHERE % elbow).split())
    canvas, shown = b.page.locator("[data-pictures] canvas").first, b.pictures()
    canvas.hover(position={"x": x, "y": y})
    assert b.page.locator(".tip").first.text_content() == "left elbow"
    canvas.click(position={"x": x, "y": y})
    b.answered(shown)
    assert "5" in b.python("print(*explorer.chosen)").split()
    assert b.page.locator("[data-pictures] svg").nth(1).get_attribute("aria-label") != said
    shown = b.pictures()
    b.page.get_by_role("button", name="left elbow").press(
        "Enter"
    )  # the same by keyboard: taken away
    b.answered(shown)
    assert "5" not in b.python("print(*explorer.chosen)").split()
    shown = b.pictures()
    b.page.get_by_role("button", name="new draw").press("Enter")
    b.answered(shown)
    assert b.python("print(explorer.draw, explorer.chosen)") == "4 []"
    code = b.page.locator("[data-pictures] pre").text_content()
    setup = "from scdnet.views.masks import *; from scdnet.data.layouts import NTU25; from torch import Generator"
    assert (
        b.python(
            f"{setup}\nspatial, temporal = map(eval, {code!r}.splitlines())\nprint((spatial[0].numpy() == explorer.masks()[0]).all())"
        )
        == "True"
    )
    b.picture("masks")


def test_an_answer_is_quick(book):
    b = book([EXPLORER])
    assert b.run() == []
    b.page.wait_for_selector("[data-pictures] canvas")
    b.press("n, ", "ArrowRight"), b.press("n, ", "ArrowLeft")
    b.page.evaluate(CLOCK)
    for label in ("n, ", "k, ", "seeds", "s, ", "r, "):
        for key in 4 * ["ArrowRight"] + 4 * ["ArrowLeft"]:
            b.press(label, key)
    b.page.wait_for_function("() => window.measured.length >= 40")
    times = sorted(b.page.evaluate("() => window.measured"))
    median, late = times[len(times) // 2], times[int(0.95 * len(times))]
    keep(
        "masks",
        changes=len(times),
        median_ms=round(median),
        percentile_95_ms=round(late),
        slowest_ms=round(times[-1]),
    )
    assert busy() or (median < 300 and late < 1000)  # far less where the machine has time


def test_two_on_a_page_and_after_a_restart(book):
    b = book([EXPLORER, "second = MaskExplorer(k=3)\nsecond"])
    for _ in range(2):
        assert b.run() == []
        b.page.wait_for_function(
            "() => document.querySelectorAll('[data-pictures] .table svg').length === 6"
        )
        b.press("k, ", "ArrowRight", i=1)
        assert b.python("print(explorer.k, second.k)") == "8 4"
        b.restart()


def test_every_control_has_a_name_and_is_reached(book):
    b = book([EXPLORER])
    assert b.run() == []
    b.page.wait_for_selector("[data-pictures] canvas")
    b.page.get_by_role("button", name="pause").click()
    names = b.page.evaluate("""() => [...document.querySelectorAll('.scdnet :is(button, input, select, canvas, svg, pre)')]
        .map(e => e.ariaLabel || e.textContent || e.labels?.[0]?.textContent || 'nameless ' + e.tagName)""")
    assert not [name for name in names if name.startswith("nameless")]
    wanted = b.page.locator(".scdnet :is(button, input, select, [tabindex])").count()
    b.page.locator(".scdnet canvas").first.focus()
    cell = "() => window.jupyterapp.shell.currentWidget.content.activeCellIndex"
    reached, active = set(), b.page.evaluate(cell)
    for _ in range(wanted + 3):
        reached.add(
            b.page.evaluate(
                "() => document.activeElement.closest('.scdnet') && [...document.querySelectorAll('.scdnet *')].indexOf(document.activeElement)"
            )
        )
        b.page.keyboard.press("Tab")
    assert len(reached - {None}) == wanted and b.page.evaluate(cell) == active
    drawn = b.page.locator("[data-drawn]").get_attribute("data-drawn")
    b.page.evaluate(
        "() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"
    )
    b.page.wait_for_function(
        "drawn => Number(document.querySelector('[data-drawn]').dataset.drawn) > drawn",
        arg=int(drawn),
    )  # in the colours of the theme
    b.picture("masks_dark")
    b.page.evaluate(
        "() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})"
    )


VIEWS = """from scdnet.viz.explorers import ViewExplorer
explorer = ViewExplorer(draw=2)
explorer"""
CLUES = """import numpy as np, pandas as pd
from scdnet.viz.explorers import ClueExplorer
from scdnet.data.mannequin.perform import sample_clip
rng = np.random.default_rng(0)
about = pd.DataFrame({"class": ["waving", "clapping"] * 8, "subject": np.arange(16) // 2})
clips = [sample_clip(action) for action in (23, 10)] * 8
explorer = ClueExplorer(rng.uniform(size=(16, 2)), rng.uniform(size=(16, 2)), about, clips, up="y")
explorer"""
POINTS = "places = (1 + .95*explorer.places[%d]*[1, -1])*170\nprint(*places[%d])"


def test_a_step_is_taken_out_of_the_views(book):
    b = book([VIEWS])
    assert b.run() == []
    b.page.wait_for_function("() => document.querySelectorAll('.scdnet canvas').length === 14")
    before = b.python("print(hash(explorer.player.points))")
    b.page.get_by_role("checkbox", name="shear").focus()
    b.page.keyboard.press("Space")
    b.page.get_by_text("no shear").first.wait_for()
    assert (
        b.page.locator(".scdnet canvas").count() == 14
        and b.python("print(hash(explorer.player.points))") != before
    )
    b.page.get_by_role("button", name="new draw").press("Enter")
    b.says("print(explorer.draw.value)", "3")
    b.picture("views")


def test_the_maps_of_both_clues_are_linked(book):
    b = book([CLUES])
    assert b.run() == []
    b.page.wait_for_selector("[data-maps] svg")
    left, right = (b.page.locator(".maps svg").nth(i) for i in (0, 1))
    x, y = map(float, b.python(POINTS % (0, 3)).split())
    left.hover(position={"x": x, "y": y})
    assert left.locator("title").nth(3).text_content() == "clapping, subject 1"  # on hovering
    assert left.locator(".picked").count() == right.locator(".picked").count() == 0
    left.click(position={"x": x, "y": y})
    b.says("print(explorer.picked)", "[3]")
    assert right.locator(".picked").count() == 1  # the other map knows
    b.page.locator(".stage canvas").wait_for()  # and the clip plays
    assert b.page.locator(".stage figcaption").text_content() == "clapping, subject 1"
    box = left.bounding_box()
    b.page.mouse.move(box["x"] + 2, box["y"] + 2)
    b.page.mouse.down()
    b.page.mouse.move(box["x"] + 336, box["y"] + 336, steps=3)
    b.page.mouse.up()
    b.says("print(len(explorer.picked), len(explorer.clips))", "16 4")
    left.focus()
    b.page.keyboard.press("ArrowRight")
    b.page.keyboard.press("Space")
    b.says("print(len(explorer.picked))", "15")
    before = left.inner_html()
    b.page.get_by_label("colour by").select_option("subject")
    b.says("print(explorer.colour)", "subject")
    assert left.inner_html() != before
    b.picture("clues")


SCROLL = """async mime => {                                  // to the first output of this kind: what is far from the window is not rendered
    const {content} = window.jupyterapp.shell.currentWidget;
    const outputs = content.model.toJSON().cells.map(cell => (cell.outputs || []).some(output => mime in (output.data || {})));
    if (outputs.includes(true)) await content.scrollToItem(outputs.indexOf(true), 'start');
    return outputs.includes(true); }"""
VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.mark.parametrize(
    "name", ["book/03_masks", "handbook/viz/03_player", "handbook/viz/04_explorers"]
)
def test_a_notebook_from_top_to_bottom(book, name):
    b = book(ROOT / "nbs" / f"{name}.ipynb")
    assert b.page.evaluate(SCROLL, "image/png") and not b.page.evaluate(
        SCROLL, VIEW
    )  # stored: pictures, which need no kernel
    b.page.locator(".jp-OutputArea img").first.wait_for()
    assert b.run() == []
    assert b.page.evaluate(SCROLL, VIEW)
    b.page.locator(".scdnet canvas").first.wait_for()
    b.picture(name.replace("/", "_"))

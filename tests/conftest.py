"""What tests share. Set before any test imports tqdm: progress bars would stand between the lines that tests read."""

import os
import shutil
import signal

import pytest

os.environ.setdefault("TQDM_DELAY", "600")  # seconds
# a shell lets what it starts in the background ignore Ctrl-C, and so would the commands under test
signal.signal(signal.SIGINT, signal.default_int_handler)
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`make test` deals out whole files, so that what a file prepares is prepared once, and the notebooks one by one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFileOrNotebook(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return nodeid if "::test_runs[" in nodeid else nodeid.partition("::")[0]

    return ByFileOrNotebook(config, log)


@pytest.fixture(scope="session")
def chromium():
    """The system's Chromium, one for all tests."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install -c constraints.txt -e '.[dev]'"
    )
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium fonts-dejavu-core")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, headless=True, args=QUIET)
        yield browser
        browser.close()

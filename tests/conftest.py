"""Before any test imports tqdm: progress bars would stand between the lines that tests read."""
import os

os.environ.setdefault("TQDM_DELAY", "600")  # seconds

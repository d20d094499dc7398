"""The README's picture: the two strips of the book's first page, one above the other, written to docs/views.png."""
import ast
import io
import json
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

root = Path(__file__).parents[1]
names, strips = {}, []
for cell in json.loads((root / "nbs" / "index.ipynb").read_text())["cells"]:
    code = ast.parse("".join(cell["source"])).body if cell["cell_type"] == "code" and "#| hide" not in cell["source"][0] else []
    for statement in code:
        if not isinstance(statement, ast.Expr):
            exec(compile(ast.Module([statement], []), "index", "exec"), names)
        elif isinstance(figure := eval(compile(ast.Expression(statement.value), "index", "eval"), names), Figure):
            buffer = io.BytesIO()
            figure.savefig(buffer, dpi=130)
            strips.append(Image.open(buffer).convert("RGB"))
picture = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), "white")
for i, strip in enumerate(strips):
    picture.paste(strip, (0, sum(above.height for above in strips[:i])))
picture.quantize(32).save(root / "docs" / "views.png", optimize=True)

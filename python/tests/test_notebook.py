"""The notebook of the documentation, its cells in their order. No kernel is needed: they are Python alone."""

import ast
import json
from pathlib import Path


def test_the_notebook_runs_and_shows_the_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).resolve().parents[2] / "docs/python.ipynb").read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    names, shown = {}, []
    for cell in cells:
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    study, rows, best = shown[-3:]
    assert "<b>pendulum</b>: completed" in study._repr_html_()
    assert len(rows) == 3 and best[0] == rows[0][0] and Path(best[1]).is_dir()

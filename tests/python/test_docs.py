"""The pages of docs/ are executed: each page's Python blocks as one session, and a ``text`` block right after one is what it prints.

A block that needs a package which is not installed ends its page with a skip that names the package; what came before has run.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qgemm import _core

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
WITH_EXAMPLES = {"aimet", "programs", "files", "calibration", "kernels", "numerics", "packing"}  # at least
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\s*^```text\n(?P<printed>.*?)^```$)?", re.M | re.S)
# Modules of qgemm that need a package of their own when they are imported.
NEEDS = {"qgemm.ops": "torch", "qgemm.nn": "torch"}


def missing(code: str) -> list[str]:
    """Packages that the code imports and that are not installed."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    packages = {NEEDS.get(m, m.split(".")[0]) for m in modules}
    return sorted(p for p in packages if importlib.util.find_spec(p) is None)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_examples(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    names: dict = {"__name__": page.stem}
    blocks = list(BLOCK.finditer(text))
    assert blocks or page.stem not in WITH_EXAMPLES, f"{page.name} has no example"
    for m in blocks:
        line = text.count("\n", 0, m.start("code")) + 1
        if packages := missing(m["code"]):
            pytest.skip(f"{page.name}, line {line}: needs {', '.join(packages)}, not installed")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # Blank lines in front, so that a traceback gives the page's own line.
            exec(compile("\n" * (line - 1) + m["code"], str(page), "exec"), names)
        if m["printed"] is not None:
            assert printed.getvalue().rstrip() == m["printed"].rstrip(), (
                f"{page.name}, line {line}: the text after it is not what it prints"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:csrc|python|scripts|tests|docs|examples)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_the_kernel_table_is_current():
    run = subprocess.run([sys.executable, ROOT / "scripts/kernel_table.py", "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    page = (ROOT / "docs/kernels.md").read_text()
    for kernel in _core.kernels():
        file = f"ref/{kernel['op']}_{kernel['types']}__ref.cc" if kernel["isa"] == "ref" else f"{kernel['name']}.cc"
        assert f"[{kernel['mr']}x{kernel['nr']}](../csrc/kernels/{file})" in page, kernel["name"]

"""The README is executed: its Python blocks as one session, its ``qgemm`` commands on the files that session wrote."""

import re
import shlex
from pathlib import Path

import pytest

from qgemm import cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def commands() -> list[list[str]]:
    """Every ``qgemm ...`` line of the shell blocks, as arguments; the demo has tests of its own."""
    lines = (line for block in blocks("sh") for line in block.splitlines())
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("qgemm ")]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """The folder in which the README's session ran."""
    for package in ("torch", "onnx", "aimet_torch"):
        pytest.importorskip(package)
    import torch

    folder = tmp_path_factory.mktemp("readme")
    torch.manual_seed(0)
    names: dict = {}
    with pytest.MonkeyPatch.context() as m:
        m.chdir(folder)
        for i, block in enumerate(blocks("python")):
            exec(compile(block, f"README.md, Python block {i + 1}", "exec"), names)
    return folder


def test_python_blocks(session):
    assert (session / "net.encodings").is_file() and (session / "net_qdq.onnx").is_file()


@pytest.mark.parametrize("argv", commands(), ids=" ".join)
def test_commands(session, argv, monkeypatch, capsys):
    monkeypatch.chdir(session)
    assert cli.main(argv) == 0
    assert capsys.readouterr().out


def test_every_verb_is_shown():
    verbs = next(a for a in cli._parser()._actions if hasattr(a, "choices") and a.choices).choices
    assert set(verbs) == {c[0] for c in commands()} | {"demo"}


def test_every_public_name_is_shown():
    import qgemm

    for name in qgemm.__all__:
        if name not in ("__version__", "Program", "numerics"):
            assert f"qgemm.{name}" in README, name


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_the_two_commands():
    for line in ('pip install ".[demo]" && qgemm demo', 'pip install ".[test]" && pytest'):
        assert line in blocks("sh")[0].splitlines()


def test_the_figures_are_the_demos(capsys):
    """qgemm's bits are the same on every CPU, so what the README quotes of the demo is what the demo prints."""
    pytest.importorskip("torch")
    assert cli.main(["demo", "--batch"]) == 0
    printed = capsys.readouterr().out.splitlines()
    quoted = [line for block in blocks("text") for line in block.splitlines() if line.startswith("W")]
    assert len(quoted) == 4 and set(quoted) <= set(printed)

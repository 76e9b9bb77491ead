"""The error classes: one base, a familiar built-in beside it, and a message that says what to do."""

from __future__ import annotations

import inspect
import sys

import pytest

from qgemm import errors

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_every_error_is_a_qgemm_error_and_a_builtin_one(cls):
    assert issubclass(cls, errors.QgemmError)
    assert cls.__doc__
    if cls is not errors.QgemmError:
        assert any(b.__module__ == "builtins" and b is not Exception for b in cls.__mro__ if issubclass(b, Exception))


def test_a_caller_may_catch_the_builtin():
    with pytest.raises(ValueError):
        raise errors.ShapeError("x")
    with pytest.raises(TypeError):
        raise errors.DTypeError("x")
    with pytest.raises(ImportError):
        raise errors.MissingDependencyError("x")


@pytest.mark.parametrize(
    "module, extra", [("torch", "torch"), ("onnx.helper", "onnx"), ("aimet_torch", "aimet"), ("matplotlib.pyplot", "plot")]
)
def test_a_missing_package_names_its_extra(module, extra, monkeypatch):
    monkeypatch.delitem(sys.modules, module, raising=False)  # another test may have imported the submodule
    monkeypatch.setitem(sys.modules, module.split(".")[0], None)  # what the import system does for a module that is not there
    with pytest.raises(errors.MissingDependencyError, match=rf'qgemm.load needs .*pip install "qgemm\[{extra}\]"'):
        errors.require(module, "qgemm.load")


def test_a_broken_package_keeps_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import a_dependency_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="a_dependency_that_is_not_there") as caught:
        errors.require("half_installed", "a test")
    assert not isinstance(caught.value, errors.MissingDependencyError)


def test_require_returns_the_module():
    import json.decoder

    assert errors.require("json.decoder", "a test") is json.decoder

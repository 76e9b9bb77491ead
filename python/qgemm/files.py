"""Program <-> ``.qgemm`` file: safetensors, with the graph as JSON in its metadata. docs/files.md gives the layout and the promise.

A file holds integers and scales as the graph has them, nothing packed for a CPU; loading packs for the CPU at hand.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from typing import Any

from .errors import DTypeError, ModelFormatError, QgemmError, require
from .graph import document
from .graph.guard import DAMAGE
from .program import Program

FORMAT = "1"
SUFFIX = ".qgemm"

# A graph of ten thousand nodes takes about 4 MiB. The limits bound what a hostile header can make the JSON parsers allocate.
_GRAPH_BYTES = 16 << 20
_HEADER_BYTES = 48 << 20
_DIGITS = 24


def save(program: Program, path) -> None:
    """Keep ``program`` in one file, for :func:`qgemm.load` on any CPU to the same bits.

    The same program gives the same bytes. The file is written beside ``path`` and renamed, so a reader never sees half of one.
    Raises DTypeError for what is no Program, ModelFormatError for a graph that a file cannot hold, MissingDependencyError
    (safetensors), and OSError where the file cannot be written.
    """
    st = require("safetensors.numpy", "qgemm.save")
    if not isinstance(program, Program):
        raise DTypeError(f"qgemm.save takes a qgemm.Program, got {type(program).__name__}: build one with qgemm.from_aimet or qgemm.load")
    path = os.path.realpath(os.fspath(path))
    doc, arrays = document.encode(program.graph)
    doc["on_unsupported"] = program.on_unsupported
    text = json.dumps(doc, separators=(",", ":"), allow_nan=False)
    if len(text) > _GRAPH_BYTES:
        raise ModelFormatError(f"the graph takes {len(text):,} bytes as JSON; a file holds at most {_GRAPH_BYTES:,}: split the network")
    data = st.save(arrays, {"qgemm_format": FORMAT, "graph": text})
    _write(path, *_same_header_every_time(data))


def _same_header_every_time(data: bytes) -> tuple[bytes, memoryview]:
    """(length and header, tensors). safetensors writes metadata in the order of a hash table, which differs from run to run."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__")
    first = {"__metadata__": dict(sorted(metadata.items(), reverse=True))}  # the format's version before the long graph
    entries = dict(sorted(header.items(), key=lambda item: (item[1]["data_offsets"], item[0])))
    text = json.dumps(first | entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _HEADER_BYTES:
        raise ModelFormatError(f"the header takes {len(text):,} bytes; a file holds at most {_HEADER_BYTES:,}: split the network")
    return len(text).to_bytes(8, "little") + text, memoryview(data)[8 + size :]


def _write(path: str, *parts) -> None:
    temporary = f"{path}.{secrets.token_hex(6)}.tmp"
    try:
        with open(temporary, "xb") as f:
            for part in parts:
                f.write(part)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise


def holds_program(path) -> bool:
    """True for a path whose name ends in .qgemm, or whose first bytes are those of a safetensors file."""
    if not isinstance(path, (str, os.PathLike)):
        return False
    path = os.fsdecode(path)
    if path.lower().endswith(SUFFIX):
        return True
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            return False
        with open(path, "rb") as f:
            head = f.read(9)
    except (OSError, ValueError):  # ValueError: a name with a null character
        return False
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= info.st_size - 8


def read_program(path, on_unsupported: str = "float") -> Program:
    """The program of a ``.qgemm`` file.

    on_unsupported: as for :func:`qgemm.load`; a program that was saved under "raise" stays under it.
    Raises ModelFormatError, QuantizationError, UnsupportedOpError, MissingDependencyError; each names the file and what broke.
    """
    safetensors = require("safetensors", "reading a .qgemm file")
    path = os.fsdecode(path)
    label = f"'{os.path.basename(path)}'"
    _check_size(path, label)
    try:
        with safetensors.safe_open(path, framework="numpy") as f:
            doc = _graph_of(f.metadata(), label)
            entries = {}
            for key in f.keys():  # noqa: SIM118 (not a dict)
                part = f.get_slice(key)
                entries[key] = (str(part.get_dtype()), tuple(part.get_shape()))
            graph = document.decode(doc, document.Arrays(entries, f.get_tensor), label)
    except QgemmError:
        raise
    except OSError as e:
        raise ModelFormatError(f"{label} cannot be read: {e.strerror or e}") from None
    except safetensors.SafetensorError as e:
        raise ModelFormatError(f"{label} is no safetensors file, or is cut ({e}); copy it again, or save the program again") from None
    except (*DAMAGE, MemoryError) as e:
        raise ModelFormatError(f"{label} is damaged ({type(e).__name__}: {e}); copy it again, or save the program again") from e
    kept = doc.get("on_unsupported")
    if kept not in ("float", "raise"):
        raise ModelFormatError(f"{label} is damaged: on_unsupported is {kept!r:.40}; copy it again, or save the program again")
    try:
        return Program(graph, "raise" if "raise" in (kept, on_unsupported) else "float")
    except QgemmError as e:
        raise type(e)(f"{label}: {e}") from e
    except (*DAMAGE, MemoryError) as e:
        raise ModelFormatError(f"{label} has parts that do not fit together ({type(e).__name__}: {e}); save the program again") from e


def _check_size(path: str, label: str) -> None:
    """Refuse what is no file or too large a header before anything reads it."""
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise ModelFormatError(f"{label} is not a file")
        with open(path, "rb") as f:
            head = f.read(8)
    except FileNotFoundError:
        raise ModelFormatError(f"there is no file '{path}'") from None
    except (OSError, ValueError) as e:
        raise ModelFormatError(f"{label} cannot be read: {getattr(e, 'strerror', None) or e}") from None
    size = int.from_bytes(head, "little")
    if len(head) < 8 or size > info.st_size - 8:
        raise ModelFormatError(
            f"{label} is no .qgemm file, or is cut: it has {info.st_size} bytes, its header asks for {size}; copy it again"
        )
    if size > _HEADER_BYTES:
        raise ModelFormatError(f"{label} has a header of {size:,} bytes; a .qgemm file has at most {_HEADER_BYTES:,}")


def _graph_of(metadata: dict[str, str] | None, label: str) -> dict[str, Any]:
    found = (metadata or {}).get("qgemm_format")
    if found is None:
        raise ModelFormatError(f"{label} is a safetensors file that holds no program: qgemm.load reads what qgemm.save wrote")
    if found != FORMAT:
        newer = found.isascii() and found.isdigit() and len(found) < 10 and int(found) > int(FORMAT)
        remedy = "a newer qgemm wrote it: upgrade qgemm, or save it with this version" if newer else "copy it again"
        raise ModelFormatError(f"{label} has format '{found[:40]}', this qgemm reads format {FORMAT}; {remedy}")
    text = metadata.get("graph")
    if text is None or len(text) > _GRAPH_BYTES:
        size = "no graph" if text is None else f"a graph of {len(text):,} bytes, where {_GRAPH_BYTES:,} is the most"
        raise ModelFormatError(f"{label} has {size}; save the program again")
    try:
        doc = json.loads(text, parse_int=_parse_int, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as e:
        raise ModelFormatError(f"{label} has a graph that is not JSON ({e}); copy it again, or save the program again") from None
    if not isinstance(doc, dict):
        raise ModelFormatError(f"{label} has a graph that is not a JSON object; save the program again")
    return doc


def _parse_int(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _no_constant(text: str):
    raise ValueError(f"{text} is not a number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found

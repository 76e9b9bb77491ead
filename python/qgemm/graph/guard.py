"""A damaged model file must end in a typed error that names the node, whatever numpy says about the pieces."""

from __future__ import annotations

from contextlib import contextmanager

from ..errors import ModelFormatError, QgemmError
from .ir import Graph, Node

# MemoryError: a few bytes of a file can ask for a constant of any size.
DAMAGE = (ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError, MemoryError)


@contextmanager
def naming(node: Node):
    """Attributes of the wrong type, missing inputs, shapes that contradict each other -> ModelFormatError."""
    try:
        yield
    except QgemmError:
        raise
    except DAMAGE as e:
        raise ModelFormatError(f"node '{node.name}' ({node.op}) has inputs or attributes that do not fit together: {e}") from e


def check_grids(graph: Graph) -> None:
    """Every encoding of a constant fits the constant: the axis exists and has as many scales as elements, or blocks."""
    for t in graph.tensors.values():
        qp = t.qparams
        if qp is None or not t.is_const or qp.axis is None:
            continue
        shape = t.data.shape
        if not 0 <= qp.axis < len(shape):
            raise ModelFormatError(f"the encoding of '{t.name}' is along axis {qp.axis}, which a tensor of shape {shape} does not have")
        if not qp.block_size:
            if qp.scale.shape != (shape[qp.axis],):
                raise ModelFormatError(
                    f"'{t.name}' of shape {shape} has {qp.scale.size} scales for the {shape[qp.axis]} channels of axis {qp.axis}"
                )
            continue
        blocks = tuple(-(-d // qp.block_size) if i == qp.axis else d for i, d in enumerate(shape))
        if qp.scale.shape != blocks:
            raise ModelFormatError(f"'{t.name}' of shape {shape} in blocks of {qp.block_size} along axis {qp.axis} needs scales of shape "
                                   f"{blocks}, got {qp.scale.shape}")  # fmt: skip

"""Passes over the graph, each a small file that leaves it equivalent. The order is the list below."""

from __future__ import annotations

from ...errors import ModelFormatError, QgemmError
from ..guard import DAMAGE, check_grids
from ..ir import Graph
from .batch import free_batch
from .batchnorm import fold_batchnorm
from .cleanup import drop_dead, drop_identities
from .constants import fold_constants
from .einsum import form_products
from .factor import absorb_factors
from .fuse_relu import fuse_relu
from .grid import propagate_grids
from .linear import form_linear
from .lut import make_tables
from .mask import fuse_masks
from .mean import mean_to_pool
from .norm import form_norms
from .qdq import fold_qdq
from .reductions import spell_reductions
from .shapes import fold_shapes
from .shuffle import form_shuffles
from .signs import normalize_signs

ORDER = (
    fold_constants,
    fold_qdq,
    drop_identities,
    fold_shapes,
    normalize_signs,
    form_products,
    form_linear,
    fold_batchnorm,
    form_norms,
    mean_to_pool,
    propagate_grids,
    spell_reductions,
    form_shuffles,
    absorb_factors,
    fuse_relu,
    make_tables,
    drop_dead,
    free_batch,
    fuse_masks,
)


def run_all(graph: Graph) -> Graph:
    """Every pass in order, in place; returns the graph."""
    check_grids(graph)
    for p in ORDER:
        try:
            p(graph)
        except QgemmError:
            raise
        except DAMAGE as e:
            raise ModelFormatError(f"the model contradicts itself ({p.__name__}: {e}); export it again") from e
    return graph

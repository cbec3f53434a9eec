"""A Bento that carries its bundles: what `make bento` builds.

`bentoml build` alone packs `bundles/digits` as files, for a CPU, and its image holds a compiler and
git. This one takes any bundles, through the BentoML model store, and the runtime of the device.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bentoml
import yaml  # type: ignore[import-untyped]
from bentoml import Bento, Tag
from bentoml.exceptions import NotFound
from bentoml.images import Image

from models.bundle import MANIFEST, read_bundle
from models.errors import OfframpError

ROOT = Path(__file__).resolve().parent.parent
BASE = "python:3.11-slim"
NO_DISTRO = ""
"""Any distribution that BentoML knows brings a compiler and git into the image."""
CUDA_ENVIRONMENT = {
    "OFFRAMP_DEVICE": "cuda",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
}
"""The last two are read by NVIDIA's container runtime."""


def store(directory: Path) -> Tag:
    """Put a bundle into the BentoML model store, unless it is there, under its model version.

    Raises
    ------
    BundleError
        When the directory holds no bundle, or one that fails its checks.
    """
    bundle = read_bundle(directory)
    tag = Tag(f"offramp-{bundle.manifest.name}", bundle.manifest.version)
    try:
        return bentoml.models.get(tag).tag
    except NotFound:
        with bentoml.models.create(tag, module="offramp") as stored:
            for name in (MANIFEST, *bundle.manifest.files):
                Path(stored.path_of(name)).write_bytes((directory / name).read_bytes())
        # BentoML keeps it to its user alone; an image may run as another
        Path(bentoml.models.get(tag).path).chmod(0o755)
        return tag


def build_options(tags: Sequence[Tag], device: str) -> dict[str, Any]:
    """`bentofile.yaml` with models of the store in place of `bundles/digits`.

    Parameters
    ----------
    tags : stored bundles; requests that name no model mean the first
    device : `cpu` or `cuda`
    """
    options: dict[str, Any] = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    options["include"] = [path for path in options["include"] if not path.startswith("bundles/")]
    options["models"] = [str(tag) for tag in tags]
    options["python"]["requirements_txt"] = f"container/{device}.lock"
    environment = {"OFFRAMP_BUNDLE": ",".join(options["models"])}
    if device == "cuda":
        environment |= CUDA_ENVIRONMENT
    options["envs"] += [{"name": name, "value": value} for name, value in environment.items()]
    return options


def image(base: str) -> Image:
    """The base with nothing but Python and packages, and without what installs them."""
    return Image(
        base_image=base, distro=NO_DISTRO, python_version="3.11", lock_python_packages=False
    )


def build(bundles: Sequence[Path], device: str, base: str = BASE) -> Bento:
    """Build a Bento and put it into the BentoML store.

    Parameters
    ----------
    bundles : directories; the first one's model is the default
    device : `cpu` or `cuda`
    base : image to build on, with Python 3.11

    Raises
    ------
    BundleError
        When a directory holds no bundle, or one that fails its checks.
    """
    from service.app import Offramp

    options = build_options([store(directory) for directory in bundles], device)
    service: Any = Offramp  # BentoML has no types for its decorated classes
    service.image = image(base)
    with tempfile.TemporaryDirectory() as folder:
        bentofile = Path(folder) / "bentofile.yaml"
        bentofile.write_text(yaml.safe_dump(options))
        return bentoml.bentos.build_bentofile(str(bentofile), build_ctx=str(ROOT))


def main() -> None:
    """Build a Bento; print its tag, its size and the way on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", help="directories of bundles, with commas between them")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--base", default=BASE, help="image to build on, with Python 3.11")
    arguments = parser.parse_args()
    directories = [Path(name.strip()) for name in arguments.bundles.split(",")]
    try:
        bento = build(directories, arguments.device, arguments.base)
    except OfframpError as error:
        sys.exit(f"error: {error}")
    models = ",".join(str(model.tag) for model in bento.info.all_models)
    size = f"{bento.total_size() / 1e6:.1f} MB"
    print(f"built {bento.tag} for {arguments.device}, {size}, with {models}")
    print(f"serve it:  OFFRAMP_BUNDLE={models} bentoml serve {bento.tag}")
    print(f"an image:  bentoml containerize {bento.tag}")


if __name__ == "__main__":
    main()

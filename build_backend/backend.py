"""PEP 517 / 660 hooks: setuptools' own, plus torch as a build requirement only where none is installed.

Declaring torch statically makes pip fetch the newest CUDA build (gigabytes) into a throw-away environment although the
user's torch is right there; declaring nothing breaks front ends that build in a fresh environment. The stable ABI makes
either torch good enough, so: use the installed one where `host.find_torch` sees it, ask for one otherwise.
"""

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  (the hooks that need no change)

from build_backend import host


def _torch_requirement() -> list[str]:
    return [] if host.find_torch() else [f"torch>={host.TORCH_FLOOR}"]


def get_requires_for_build_wheel(config_settings=None):
    return build_meta.get_requires_for_build_wheel(config_settings) + _torch_requirement()


def get_requires_for_build_editable(config_settings=None):
    return build_meta.get_requires_for_build_editable(config_settings) + _torch_requirement()

"""Metadata is in pyproject.toml; this adds the native build (build_backend/)."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent))

from build_backend.command import NATIVE, BuildNative

setup(ext_modules=[NATIVE], cmdclass={"build_ext": BuildNative})

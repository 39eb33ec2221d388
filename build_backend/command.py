"""The setuptools command that builds the native libraries: into build/ for a wheel, beside the sources in place."""

from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

from build_backend import plan, runner

# Stands for all native libraries: its presence makes the wheel a platform wheel of this Python.
NATIVE = Extension("lightops._C", sources=[])


class BuildNative(build_ext):
    """`build_ext` that runs the plan of build_backend/plan.py instead of setuptools' one-flag-set-per-extension."""

    def run(self) -> None:
        # In place (`make build`, editable installs) one object folder is shared, so that neither compiles anew.
        folder = plan.ROOT / "build" / "inplace" if self.inplace else Path(self.build_temp).resolve() / "native"
        target = (plan.ROOT if self.inplace else Path(self.build_lib).resolve()) / "lightops"
        target.mkdir(parents=True, exist_ok=True)
        module_name = Path(self.get_ext_filename(NATIVE.name)).name
        runner.run(plan.package_steps(folder, target, module_name), folder)

    def get_outputs(self) -> list[str]:
        return [] if self.inplace else sorted(map(str, (Path(self.build_lib) / "lightops").glob("_*.so")))

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def get_source_files(self) -> list[str]:
        return []

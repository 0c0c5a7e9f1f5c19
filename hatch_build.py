"""Compiles the object files that a wheel ships; an editable installation compiles them in place."""

import subprocess
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ObjectsHook(BuildHookInterface):
    """Run rbe_cli.runtime.build before the files of a wheel are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the object files that are missing or stale, and add them to the wheel."""
        subprocess.run([sys.executable, "-m", "rbe_cli.runtime.build"], cwd=self.root, check=True)
        build_data["artifacts"] += ["rbe_cli/objects/*.o", "rbe_cli/objects/hashes.json"]

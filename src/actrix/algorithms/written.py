"""Settings written in a file of YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from actrix.algorithms.policy_kwargs import SettingError


class _Once(yaml.SafeLoader):
    """YAML whose mappings name everything once: the last would win in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise SettingError(f"{twice[0]} is given twice.")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, label: str) -> Any:
    """What the file holds. SettingError, beginning with `label`, where it is no YAML or names something twice."""
    try:
        return _Once(path.read_text(encoding="utf-8")).get_single_data()
    except SettingError as error:
        raise SettingError(f"{label}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2020-13-45
        raise SettingError(f"{label} is no YAML: {' '.join(str(error).split())}") from None

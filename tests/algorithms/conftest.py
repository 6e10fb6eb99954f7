"""See helpers.py. What several files ask of one preset is asked in a row, so that its programs are made once."""

PER_PRESET = ("test_learning", "test_modes", "test_resume_presets")


def pytest_collection_modifyitems(items):
    """Tests of one preset next to each other, the other tests in their order."""
    from actrix.algorithms.presets import PRESETS

    def place(item):
        params = item.callspec.params if hasattr(item, "callspec") else {}
        name = params.get("name", params.get("case"))
        return list(PRESETS).index(name) if item.module.__name__ in PER_PRESET and name in PRESETS else len(PRESETS)

    items.sort(key=place)

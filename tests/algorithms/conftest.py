"""See helpers.py. What several files ask of one preset is asked in a row, so that its programs are made once."""

PER_PRESET = ("test_golden_updates", "test_learning", "test_modes", "test_resume_presets")


def pytest_collection_modifyitems(items):
    """Tests of one preset next to each other, the other tests in their order."""
    from actrix.algorithms.presets import PRESETS

    names = list(PRESETS)

    def place(item):
        params = item.callspec.params if hasattr(item, "callspec") else {}
        name = params.get("name", params.get("case"))
        if item.module.__name__ not in PER_PRESET or name not in names:
            return len(names)
        item.group = name
        return names.index(name)

    items.sort(key=place)

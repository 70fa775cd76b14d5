"""What is counted under which name."""

import pytest

pytest.importorskip("prometheus_client")


def test_no_class_has_the_target_of_any_defect() -> None:
    """`any` is the one name that no class may have; others are free."""
    from steel.serving.metrics import Metrics

    expected = {"defective_share": 0.5, "mean_probabilities": [0.9, 0.1, 0.2]}
    text = Metrics(("any defect", "pit"), expected, lambda: 0, lambda: 0).text().decode()
    for target, value in (("any", 0.9), ("any defect", 0.1), ("pit", 0.2)):
        assert f'steel_validation_mean_probability{{target="{target}"}} {value}\n' in text

"""What a report says of where a checkpoint comes from."""

from tests.random_members import make_member
from train.engine.evaluation_origin import recipe_reasons


def test_the_reasons_of_a_recipe_are_those_of_all_members() -> None:
    """And none where they differ."""
    one, two = ({"config": {"reasons": {"phases.0.lr": why}}} for why in ("so", "or so"))
    (alone, alike, mixed) = (
        make_member(0, provenance=provenance)
        for provenance in (one, *({"members": [{"provenance": p} for p in each]} for each in ((one, one), (one, two))))
    )
    assert recipe_reasons(alone) == recipe_reasons(alike) == {"phases.0.lr": "so"}
    assert recipe_reasons(mixed) == recipe_reasons(make_member(0, provenance={})) == {}

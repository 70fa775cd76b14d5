"""What ranks that are bound to cores take for their own."""

import pytest

from steel.machine import usable_cores
from tests.distributed.launching import run_script


@pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")
@pytest.mark.parametrize(("binding", "told"), [("each", "cores 1.0 1.0"), ("same", "cores 0.5 0.5")])
def test_a_core_that_a_rank_has_alone_is_not_shared_once_more(binding: str, told: str) -> None:
    assert told in run_script(2, "tests/distributed/programs/bound_ranks.py", binding).stdout.splitlines()

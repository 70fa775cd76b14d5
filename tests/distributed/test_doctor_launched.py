"""The doctor under the launchers that users have."""

import re

import pytest

from tests.distributed.launching import run, run_script
from tests.doctor_report import complaints
from tests.shard_folder import small_shards


@pytest.mark.parametrize(
    ("processes", "launcher"),
    [
        pytest.param(2, "accelerate", id="accelerate"),
        pytest.param(3, "torchrun", id="torchrun", marks=pytest.mark.slow),
    ],
)
def test_the_doctor_sees_the_whole_job(processes, launcher, tmp_path):
    shards = small_shards(tmp_path / "shards")
    done = run(processes, "train.doctor", "--data", shards, "--out", tmp_path, "--workers", 0)
    assert re.search(rf"^  launcher +{launcher}, {processes} ranks; they meet at ", done.stdout, re.MULTILINE)
    assert re.search(rf"^  all-reduce {processes} ranks sum 100 MiB", done.stdout, re.MULTILINE)
    # Ranks that measure the same number share a line, which names none where it is of all.
    named = re.findall(r"^  loader +\d+ augmented.*?(?:  \(rank ([\d, ]+)\))?$", done.stdout, re.MULTILINE)
    told = [rank for ranks in named for rank in (map(int, ranks.split(", ")) if ranks else range(processes))]
    assert sorted(told) == list(range(processes)), done.stdout
    assert not complaints(done.stdout), done.stdout


def test_a_machine_that_does_not_see_the_shards_is_named_at_once(tmp_path):
    """The other rank does not wait for it, and none is called stuck."""
    shards = small_shards(tmp_path / "shards")
    done = run_script(2, "tests/distributed/programs/doctor_of_ranks.py", shards, tmp_path, check=False)
    assert done.returncode == 1
    (told,) = re.findall(r"^x shards +(.*)$", done.stdout, re.MULTILINE)
    assert f"{shards}-gone" in told and told.endswith("(rank 1)")
    assert "hangs" not in done.stdout + done.stderr

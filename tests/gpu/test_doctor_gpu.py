"""What the doctor says of a machine with a GPU."""

import pytest
import torch

from train.doctor.checks import check_gpus, run_checks

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def test_every_gpu_is_listed_with_the_versions_it_runs_on():
    findings = run_checks({"gpu": check_gpus})
    assert not [finding for finding in findings if finding.level == "problem"]
    assert sum("compute" in finding.text for finding in findings) == torch.cuda.device_count()
    (nccl,) = [finding.text for finding in findings if finding.subject == "nccl"]
    assert f"CUDA {torch.version.cuda}, driver " in nccl
    assert "unknown" not in nccl

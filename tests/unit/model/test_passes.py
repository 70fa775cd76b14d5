"""Forward passes: several at once on a CPU, one thread each, large ones with all threads; one by one elsewhere."""

import threading

import pytest
import torch

from steel.model import passes as passes_module
from steel.model.passes import _LARGE_PASS, default_pixels_per_pass, intra_op_threads, open_passes

CPU = torch.device("cpu")


def where() -> tuple[str, int]:
    return threading.current_thread().name.rpartition("_")[0], torch.get_num_threads()


def test_small_passes_run_at_once_on_a_thread_each() -> None:
    meeting = threading.Barrier(3)  # breaks unless all three are under way

    def meet() -> tuple[str, int]:
        meeting.wait(20)
        return where()

    with intra_op_threads(3), open_passes(CPU) as passes:
        results = [passes.begin(meet, 1000) for _ in range(3)]
        assert [result() for result in results] == [("forward-pass", 1)] * 3
        with passes.own_work(1000):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3


def test_large_passes_have_all_threads_and_wait_until_they_are_asked_for() -> None:
    with intra_op_threads(3), open_passes(CPU) as passes:
        result = passes.begin(where, _LARGE_PASS)
        with passes.own_work(_LARGE_PASS):
            assert result()[1] == 3


@pytest.mark.parametrize("device", [CPU, torch.device("cuda")])
def test_one_thread_and_gpus_take_one_pass_after_another(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes_module, "stream_aside", lambda device: f"of {device}")
    begun = []
    with intra_op_threads(1), open_passes(device) as passes:
        assert (passes.ahead, passes.aside) == ((1, "of cuda") if device.type == "cuda" else (0, None))
        result = passes.begin(lambda: begun.append(where()), 1000)
        assert not begun
        result()
    assert begun[0][0] != "forward-pass"


def test_torch_has_its_threads_back() -> None:
    """Also in threads that are born later: torch keeps one number for those."""
    with intra_op_threads(2):
        with open_passes(CPU) as passes:
            passes.begin(where, 1000)()
        found: list[int] = []
        later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert (torch.get_num_threads(), found) == (2, [2])


def test_an_error_is_raised_where_the_result_is_asked_for_and_ends_what_waits() -> None:
    ran = []

    def fail() -> None:
        raise MemoryError("no more")

    def work() -> None:
        with intra_op_threads(2), open_passes(CPU) as passes:
            result = passes.begin(fail, 1000)
            for _ in range(2):
                passes.begin(lambda: threading.Event().wait(0.2), 1000)
            for _ in range(50):
                passes.begin(lambda: ran.append(1), 1000)
            result()

    with pytest.raises(MemoryError, match="no more"):
        work()
    assert len(ran) < 50


def test_a_gpu_takes_more_pixels_at_once_than_a_cpu() -> None:
    assert default_pixels_per_pass("cpu") < 256 * 320
    assert default_pixels_per_pass("cuda") == default_pixels_per_pass("mps") >= 5 * 256 * 1600

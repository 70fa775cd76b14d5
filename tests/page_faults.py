"""What it costs a process to ask for memory that it has just freed."""

import mmap
import platform
import resource

import pytest

PAGES = 16_000
"""More than glibc keeps by itself of what is freed."""
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")


def faults_of_freed_memory(num_pages: int) -> int:
    """How many of so many pages, freed and asked for once more, the kernel had to give anew."""
    b"x" * (num_pages * mmap.PAGESIZE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * (num_pages * mmap.PAGESIZE)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

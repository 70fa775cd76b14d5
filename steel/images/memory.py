"""Too little memory for an image, in the words of whatever library decodes it."""

from steel.errors import is_out_of_memory


def raise_out_of_memory(error: Exception, kind: str) -> None:
    """Raise MemoryError where a library says that, of a file of some format which may be whole.

    Raises:
        MemoryError: `error` says that memory has run out.
    """
    if is_out_of_memory(error):
        raise MemoryError(f"to decode a {kind}") from error

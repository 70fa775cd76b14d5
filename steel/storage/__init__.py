"""Files by path or URL, used as `storage.read_bytes(url)`.

A location is a local path or an fsspec URL (`s3://bucket/folder`), but none of a place in an archive. Nothing
half-written ever appears under a final name.
"""

from steel.storage.listing import FileInfo, exists, file_info, file_size, is_folder, list_files, name_issues
from steel.storage.locations import check_apart, full_path, is_remote, join, local_path
from steel.storage.reading import digest_file, download, local_copy, mapped, read_bytes, read_range
from steel.storage.stores import load_driver
from steel.storage.writing import (
    free_bytes,
    make_folder,
    open_folder,
    open_write,
    remove,
    remove_at_once,
    remove_leftovers,
    sync_to_disk,
    write_bytes,
    write_text,
)

__all__ = [
    "FileInfo",
    "check_apart",
    "digest_file",
    "download",
    "exists",
    "file_info",
    "file_size",
    "free_bytes",
    "full_path",
    "is_folder",
    "is_remote",
    "join",
    "list_files",
    "load_driver",
    "local_copy",
    "local_path",
    "make_folder",
    "mapped",
    "name_issues",
    "open_folder",
    "open_write",
    "read_bytes",
    "read_range",
    "remove",
    "remove_at_once",
    "remove_leftovers",
    "sync_to_disk",
    "write_bytes",
    "write_text",
]

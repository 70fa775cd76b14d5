"""Images read from S3 and shards written to it, against a real server of its protocol on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.folder import staging_folder
from data_prep.verify import main as verify
from steel import storage
from steel.shards.reader import ShardReader
from tests.image_folder import arguments, tree_digest, write_images

moto_server = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket; the environment tells every client where its server is."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
            patch.delenv(name, raising=False)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("steel")
        yield "s3://steel"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input")
    write_images(folder, 12)
    assert main(arguments(folder, folder / "shards")) == 0
    return folder


def upload(folder: Path, url: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write_bytes(storage.join(url, path.relative_to(folder).as_posix()), path.read_bytes())


def download(url: str, folder: Path) -> Path:
    for file in storage.list_files(url):
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).write_bytes(storage.read_bytes(storage.join(url, file.path)))
    return folder


def test_from_bucket_to_bucket_the_bytes_are_the_same(bucket: str, folder: Path, tmp_path: Path) -> None:
    upload(folder / "images", f"{bucket}/raw/images")
    upload(folder, f"{bucket}/raw")
    out = f"{bucket}/set/shards"
    line = ["--images", f"{bucket}/raw/images", "--labels", f"{bucket}/raw/train.csv", "--out", out]
    line += ["--folds", "3", "--shard-size", "5", "--workers", "2", "--executor", "thread"]
    assert main(line) == 0
    assert tree_digest(download(out, tmp_path / "copy")) == tree_digest(folder / "shards")
    assert not storage.exists(f"{out}/.unfinished")
    assert not staging_folder(out).exists()
    assert verify([out, "--workers", "1"]) == 0
    assert main(line) == 0


def test_samples_read_from_the_bucket_are_those_on_disk(bucket: str, folder: Path, tmp_path: Path) -> None:
    upload(folder / "shards", f"{bucket}/ready")
    near, far = ShardReader(folder / "shards"), ShardReader(f"{bucket}/ready", cache_dir=tmp_path)
    assert far.manifest.digest == near.manifest.digest
    for row in (11, 0, 7):
        assert far.read_bytes(row) == near.read_bytes(row)


def test_an_unfinished_job_in_a_bucket_goes_on(bucket: str, folder: Path, tmp_path: Path) -> None:
    out = f"{bucket}/resumed"
    assert main(arguments(folder, out, part="1/2")) == 0
    assert not storage.exists(f"{out}/manifest.json")
    assert main(arguments(folder, out, join=2)) == 2
    assert main(arguments(folder, out)) == 0
    assert tree_digest(download(out, tmp_path / "copy")) == tree_digest(folder / "shards")


def test_what_is_not_there_is_one_line(bucket: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = arguments(folder, f"{bucket}/nothing")
    line[line.index("--images") + 1] = f"{bucket}/nowhere"
    assert main(line) == 2
    assert "s3://steel/nowhere: no such folder, or it is empty" in capsys.readouterr().err
    line[line.index("--images") + 1] = "s3://nobody/images"
    assert main(line) == 2
    assert "s3://nobody/images" in capsys.readouterr().err


def test_what_is_removed_from_a_bucket_is_no_pattern(bucket: str) -> None:
    names = ["run1/.unfinished/plan.json", "run1/a.tar", "run[1]/.unfinished/plan.json", "run[1]/a.tar"]
    for name in names:
        storage.write_bytes(f"{bucket}/patterns/{name}", b"1")
    storage.remove(f"{bucket}/patterns/run[1]/.unfinished")
    assert [storage.exists(f"{bucket}/patterns/{name}") for name in names] == [True, True, False, True]
    storage.remove(f"{bucket}/patterns/run[1]")
    assert [file.path for file in storage.list_files(f"{bucket}/patterns")] == ["run1/a.tar"]


def test_an_empty_bucket_is_a_place_for_shards(bucket: str, folder: Path, tmp_path: Path) -> None:
    s3fs.S3FileSystem().mkdir("empty")
    assert main(arguments(folder, "s3://empty")) == 0
    assert tree_digest(download("s3://empty", tmp_path / "copy")) == tree_digest(folder / "shards")

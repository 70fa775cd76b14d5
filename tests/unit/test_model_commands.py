"""steel predict, info, export and ensemble, called as a user calls them."""

import csv
import dataclasses
import json
import os
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import cv2
import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from steel.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from steel.cli import main
from steel.config import NetworkConfig
from steel.decision import ClassDecision, Decision
from steel.errors import InputError
from steel.images.decode import decode_image
from steel.images.pixel_format import Depth
from steel.inference.predictor import Predictor
from steel.labels.rle import decode_rle
from steel.labels.submission import read_submission
from steel.model.network import UnifiedModel
from steel.startup import Terminated
from tests.submission_check import validate_submission

SIZES = {"a.jpg": (40, 48), "b.png": (33, 47), "line/c.png": (40, 48), "d.jpg": (20, 90)}
DECISION = Decision(classes=(ClassDecision(pixel_threshold=126), ClassDecision(min_area=30)), tta=("hflip",))


def make_checkpoint(seed):
    torch.manual_seed(seed)
    network = NetworkConfig("Unet", "tu-test_resnet", num_classes=2, in_channels=1, decoder_channels=(8, 8))
    return Checkpoint(
        network=network,
        class_names=("spot", "trace"),
        mean=(0.4,),
        std=(0.2,),
        tensors={name: tensor[None] for name, tensor in UnifiedModel(network).state_dict().items()},
        decision=DECISION,
        folds={"train": [2, 3], "tuning": [0], "test": [1]},
        provenance={"data_digest": "d" * 64, "steel": "0.1.0", "config": {"preset": "smoke", "seed": 3}},
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with two checkpoints and some images."""
    root = tmp_path_factory.mktemp("work")
    for seed, name in enumerate(("one", "two")):
        save_checkpoint(root / f"{name}.safetensors", make_checkpoint(seed))
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "images" / name), rng.integers(0, 256, size, dtype=np.uint8))
    return root


@pytest.fixture
def steel(work, monkeypatch, capsys):
    """Run `steel ARGUMENTS...` in the work folder -> exit code, stdout, stderr."""
    monkeypatch.chdir(work)

    def run(*arguments):
        code = main(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_predict_writes_what_the_predictor_answers(work, steel):
    code, out, _ = steel(
        "predict", "one.safetensors", "images", "--out", "out", "--format", "kaggle,table,overlays",
        "--device", "cpu", "--pixels-per-pass", "4000",
    )  # fmt: skip
    assert code == 0
    assert "out: submission.csv, table.csv, overlays; 4 images" in out
    assert "2 views per image" in out
    validate_submission(work / "out/submission.csv", num_classes=2, image_ids=SIZES, size=SIZES)
    predictor = Predictor.from_checkpoint(work / "one.safetensors", device="cpu", pixels_per_pass=4000)
    names = sorted(SIZES)
    images = [decode_image((work / "images" / name).read_bytes(), 1) for name in names]
    answers = dict(zip(names, predictor.predict(images), strict=True))
    rows = read_submission(work / "out/submission.csv").rows
    assert [(row.image_id, row.class_id) for row in rows] == [(n, k) for n in names for k in (1, 2)]
    assert any(row.rle for row in rows)
    for row in rows:
        mask = decode_rle(row.rle, *SIZES[row.image_id]) if row.rle else np.zeros(SIZES[row.image_id])
        np.testing.assert_array_equal(mask, answers[row.image_id].masks[row.class_id - 1])

    with open(work / "out/table.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["ImageId"] for line in table] == names
    for line in table:
        probs = answers[line["ImageId"]].label_probs
        assert line["P(any)"] == f"{probs[0] / 255:.3f}"
        likeliest = 1 + int(np.argmax(probs[1:])) if probs[0] >= 128 else 0
        assert int(line["ClassId"]) == likeliest
        assert line["ClassName"] == ("clean", "spot", "trace")[likeliest]
        assert int(line["Area(trace)"]) == answers[line["ImageId"]].masks[1].sum()

    overlays = {p.relative_to(work / "out/overlays").as_posix() for p in (work / "out/overlays").rglob("*.*")}
    assert overlays == {"a.jpg", "b.png.jpg", "line/c.png.jpg", "d.jpg"}
    assert cv2.imread(str(work / "out/overlays/d.jpg")).shape == (20, 90, 3)


@pytest.mark.parametrize("single", [True, False])
def test_predict_refuses_a_name_that_no_submission_can_hold(work, tmp_path, steel, single):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/Str\xfcck.png")
    shutil.copy(work / "images" / "b.png", odd)
    images, out = odd if single else str(tmp_path), tmp_path / "out"
    code, _, err = steel("predict", "one.safetensors", images, "--out", str(out), "--device", "cpu")
    assert code == 2
    said = err.splitlines()[-1]
    assert said.startswith("error: names with control characters or bytes that are not UTF-8: Str\\xfcck.png (")
    assert not out.exists()


def test_predict_says_which_files_it_replaces(work, steel, tmp_path):
    line = ("predict", "one.safetensors", "images", "--out", str(tmp_path), "--format", "kaggle,jsonl")
    assert steel(*line)[::2] == (0, "")
    (tmp_path / "predictions.jsonl").unlink()
    code, _, err = steel(*line)
    assert code == 0
    assert err == f"note: {tmp_path}/submission.csv is there already; it is replaced when all images are done\n"
    assert steel(*line[:-1], "labelmaps")[::2] == (0, "")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, _, err = steel(*line[:-1], "labelmaps,kaggle")
    assert (code, err.count("\n")) == (2, 1) and "labelmaps: holds files of an earlier command" in err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_predict_says_that_nothing_was_tuned(work, steel):
    save_checkpoint(work / "raw.safetensors", dataclasses.replace(make_checkpoint(0), decision=None))
    for checkpoint, said in (("raw.safetensors", True), ("one.safetensors", False)):
        code, out, _ = steel("predict", checkpoint, "images/a.jpg", "--out", "raw", "--device", "cpu")
        assert code == 0
        assert ("never tuned" in out) == said
    assert "none yet" in steel("info", "raw.safetensors")[1]


def test_predict_in_the_rows_of_a_sample(work, steel):
    (work / "sample.csv").write_text("ImageId,EncodedPixels,ClassId\nd.jpg,1 1,1\na.jpg,1 1,1\n")
    code, out, _ = steel(
        "predict", "one.safetensors", "images", "--out", "template", "--template", "sample.csv", "--tta", "none",
        "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    assert "4 images, 2 of them not in the sample" in out
    assert ", 1 view per image" in out
    assert read_submission(work / "template/submission.csv").image_ids == ("d.jpg", "a.jpg")


@pytest.mark.parametrize(
    ("stop", "code", "line"),
    [
        (KeyboardInterrupt, 130, "interrupted; the same command goes on from here"),
        (Terminated, 143, "stopped by SIGTERM; the same command goes on from here"),
    ],
)
def test_a_stop_is_told_with_that_nothing_is_lost(work, steel, monkeypatch, stop, code, line):
    def stop_after_one(done, total):
        raise stop

    monkeypatch.setattr("steel.commands.models.prediction_bars", lambda predictor: nullcontext(stop_after_one))
    found, _, said = steel("predict", "one.safetensors", "images", "--out", str(code), "--device", "cpu")
    assert (found, said.splitlines()[-1]) == (code, line)


def test_the_pace_is_that_of_this_attempt(work, steel, monkeypatch):
    line = ("predict", "one.safetensors", "images", "--out", "paced", "--device", "cpu")

    def stop_after_three(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("steel.commands.models.prediction_bars", lambda predictor: nullcontext(stop_after_three))
        assert steel(*line)[0] == 130
    clock = SimpleNamespace(perf_counter=iter((10.0, 14.0)).__next__)
    monkeypatch.setattr("steel.commands.models.time", clock)
    code, out, _ = steel(*line)
    assert code == 0
    assert "paced: submission.csv; 4 images, 3 of them by an earlier attempt; " in out
    assert "; 0.250 images/s on cpu" in out  # one in four seconds


def test_one_image_is_answered_as_among_others(work, steel):
    for images, out in (("images/b.png", "b"), ("images", "all")):
        assert steel("predict", "one.safetensors", images, "--out", out, "--device", "cpu")[0] == 0
    rows = read_submission(work / "b/submission.csv").rows
    assert [row.image_id for row in rows] == ["b.png", "b.png"]
    assert set(rows) < set(read_submission(work / "all/submission.csv").rows)


def test_predict_tells_mistakes_in_one_line_and_writes_nothing(work, steel, tmp_path):
    (tmp_path / "sample.csv").write_text("ImageId,EncodedPixels,ClassId\nelsewhere.jpg,1 1,1\n")
    (tmp_path / "header.csv").write_text("ImageId,EncodedPixels,ClassId\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("precious")
    twins = tmp_path / "twins"
    twins.mkdir()
    for name in ("a.png", "a.bmp"):
        cv2.imwrite(str(twins / name), np.zeros((8, 8), np.uint8))
    (tmp_path / "full/masks").mkdir(parents=True)
    (tmp_path / "full/masks/old.png").write_text("of another folder")
    out = str(tmp_path / "out")
    predict, export = ("predict", "one.safetensors"), ("export", "one.safetensors", "--onnx", f"{out}.onnx")
    cases = {
        (*predict, "nowhere", "--out", out): "nowhere: no such file or folder",
        (*predict, "images/none.jpg", "--out", out): "images/none.jpg: no such file or folder",
        (*predict, str(tmp_path / "empty"), "--out", out): "no images",
        (*predict, "images", "--out", out, "--template", str(tmp_path / "sample.csv")): "elsewhere.jpg",
        (*predict, "images", "--out", out, "--template", str(tmp_path / "header.csv")): "a header without rows",
        (*predict, "images", "--out", out, "--template", "x", "--format", "coco"): "only the format kaggle has one",
        (*predict, "images", "--out", out, "--format", "coco,dicom"): "--format coco,dicom: give some of kaggle, coco",
        (*predict, "images", "--out", out, "--format", "coco,coco"): "each at most once",
        (*predict, "images", "--out", "images/line/../new", "--format", "overlays"): "would be mixed with the images",
        (*predict, str(twins), "--out", out, "--format", "labelmaps"): "differ in their extension alone: a.bmp, a.png",
        (*predict, "images", "--out", str(tmp_path / "full"), "--format", "masks"): "holds files of an earlier command",
        (*predict, "images", "--out", "images/a.jpg"): "images/a.jpg: the name of a file",
        (*predict, "images", "--out", "s.csv"): "s.csv: the name of a file; give that of a folder",
        (*predict, "images", "--out", str(tmp_path / "file")): "is no folder",
        (*predict, "images", "--out", "images"): "images: read by the same command",
        (*predict, "images", "--out", out, "--tta", "rot90"): "tta: rot90",
        (*predict, "images", "--out", out, "--device", "cuda:77"): "device 'cuda:77'",
        (*predict, "images", "--out", f"../{work.name}/one.safetensors"): "read by the same command",
        ("export", "one.onnx", "--onnx", "one.onnx"): "read by the same command",
        ("export", "one.safetensors", "--onnx", f"{out}.bin"): "out.bin: give a name that ends in .onnx",
        (*export, "--force"): "--force: goes with --int8 SHARDS alone",
        (*export, "--int8-folds", "1", "0"): "--int8-folds: goes with --int8 SHARDS alone",
        (*export, "--int8-images", "8"): "--int8-images: goes with --int8 SHARDS alone",
        (*export, "--int8-max-loss", "1"): "--int8-max-loss: goes with --int8 SHARDS alone",
        ("ensemble", "one.safetensors", "two.safetensors", "--out", "two.safetensors"): "read by the same command",
        ("ensemble", "one.safetensors", "two.safetensors", "--out", f"{out}/both.ONNX"): "ends in .safetensors",
        ("predict", "images/a.jpg", "images", "--out", out): "not a checkpoint",
        ("predict", "absent.safetensors", "images", "--out", out): "no such file",
    }
    before = sorted(p for p in tmp_path.rglob("*"))
    for arguments, message in cases.items():
        code, _, err = steel(*arguments)
        assert (code, err.count("\n")) == (2, 1), (arguments, err)
        assert err.startswith("error: ")
        assert message in err, (arguments, err)
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_predict_tells_what_needs_no_model_before_it_is_loaded(work, steel, tmp_path, monkeypatch):
    monkeypatch.setattr("steel.inference.load.load_predictor", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/old.png").write_text("of another folder")
    for images, *more in (
        ("images", "--format", "coco,dicom"),
        ("images", "--template", "x.csv", "--format", "coco"),
        ("images", "--format", "masks"),
        ("nowhere",),
    ):
        assert steel("predict", "one.safetensors", images, "--out", str(tmp_path), *more)[0] == 2


def test_predict_leaves_out_the_files_that_sharding_refuses(work, steel, tmp_path):
    pixels = cv2.GaussianBlur(np.random.default_rng(4).integers(0, 256, (80, 120), np.uint8), (3, 3), 1)
    whole = cv2.imencode(".jpg", pixels)[1].tobytes()
    half = len(whole) // 2
    (tmp_path / "zeros.jpg").write_bytes(whole[:half] + bytes(len(whole) - half))
    (tmp_path / "hole.jpg").write_bytes(whole[: half - 300] + bytes(600) + whole[half + 300 :])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "fine.jpg").write_bytes(whole)
    cv2.imwrite(str(tmp_path / "deep.png"), pixels.astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "real.tif"), pixels.astype(np.float32))
    code, out, err = steel("predict", "one.safetensors", str(tmp_path), "--out", "refused", "--device", "cpu")
    assert (code, err.count("\n")) == (3, 1)
    assert "refused: submission.csv; 1 image; " in out
    for refusal in (
        "warning: left out 5 unreadable images: ",
        "zeros.jpg (damaged JPEG",
        "hole.jpg (damaged JPEG",
        "empty.jpg (an empty file",
        "deep.png (16 bits a pixel; --depth",
        "real.tif (float32 pixels; convert them",
    ):
        assert refusal in err
    assert read_submission(work / "refused/submission.csv").image_ids == ("fine.jpg",)


def test_predict_tells_of_images_that_viewers_turn(work, steel, tmp_path):
    pixels = Image.fromarray(np.random.default_rng(4).integers(0, 256, (40, 60), np.uint8))
    exif = Image.Exif()
    for name, orientation in (("plain.png", 1), ("turned.png", 6)):
        exif[0x0112] = orientation
        pixels.save(tmp_path / name, exif=exif)
    code, _, err = steel("predict", "one.safetensors", str(tmp_path), "--out", "turned", "--device", "cpu")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith(
        "warning: 1 image with an EXIF orientation other than 1: turned.png; what was predicted is of "
    )
    answers = {(row.image_id, row.class_id): row.rle for row in read_submission(work / "turned/submission.csv").rows}
    assert any(answers.values())
    assert all(answers["plain.png", number] == answers["turned.png", number] for number in (1, 2))


def test_16_bit_images_are_converted_where_those_trained_on_were(work, steel):
    save_checkpoint(work / "deep.safetensors", dataclasses.replace(make_checkpoint(0), depth=Depth("high-byte")))
    pixels = cv2.imread(str(work / "images/b.png"), cv2.IMREAD_UNCHANGED)
    low = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint16)
    for name, image in (("deep/b.png", pixels * np.uint16(256) + low), ("plain/b.png", pixels)):
        (work / name).parent.mkdir()
        cv2.imwrite(str(work / name), image)
        assert steel("predict", "deep.safetensors", name, "--out", name + ".out", "--device", "cpu")[0] == 0
    deep, plain = ((work / name / "b.png.out/submission.csv").read_text() for name in ("deep", "plain"))
    assert deep == plain
    deep, plain = (Predictor.from_checkpoint(work / f"{name}.safetensors", device="cpu") for name in ("deep", "one"))
    (one,), (other,) = deep.predict([pixels * np.uint16(256) + low]), plain.predict([pixels])
    np.testing.assert_array_equal(one.mask_probs, other.mask_probs)
    with pytest.raises(InputError, match="16 bits a pixel; --depth"):
        plain.predict([pixels * np.uint16(256)])
    assert "depth          high-byte" in steel("info", "deep.safetensors")[1]
    assert (
        "tiles          of 1024x1024 pixels, 256 shared, beyond 2,097,152 pixels" in steel("info", "one.safetensors")[1]
    )
    code, _, err = steel("ensemble", "one.safetensors", "deep.safetensors", "--out", "mixed.safetensors")
    assert code == 2
    assert "deep.safetensors: differs from one.safetensors in depth" in err


def test_info_says_what_is_inside(steel):
    code, out, _ = steel("info", "one.safetensors")
    assert code == 0
    parameters = sum(p.numel() for p in UnifiedModel(make_checkpoint(0).network).parameters())
    for text in (
        "Unet on tu-test_resnet",
        f"{parameters / 1e6:.2f} million parameters",
        "gray images of any size",
        "mean 0.4000, standard deviation 0.2000",
        "train 2, 3; tuning 0; test 1",
        "gate none",
        "flips averaged: hflip",
        "1 spot",
        "2 trace",
        "0.494",  # 126 / 255
        "config.preset  smoke",
    ):
        assert text in out, text
    code, out, _ = steel("info", "one.safetensors", "--json")
    assert code == 0
    assert json.loads(out)["decision"] == DECISION.to_dict()
    code, _, err = steel("info", "images/a.jpg")
    assert code == 2
    assert "not a checkpoint" in err


def test_ensemble_packs_members_into_one_file(work, steel):
    code, out, _ = steel("ensemble", "one.safetensors", "two.safetensors", "--out", "both.safetensors")
    assert code == 0
    assert "both.safetensors: 2 members" in out
    both = load_checkpoint(work / "both.safetensors")
    second = load_checkpoint(work / "two.safetensors")
    state = both.member_state(1)
    assert all(torch.equal(state[name], tensor[0]) for name, tensor in second.tensors.items())
    code, out, _ = steel("info", "both.safetensors")
    assert "2 members" in out
    assert "member 2     two.safetensors" in out
    code, _, _ = steel("predict", "both.safetensors", "images/a.jpg", "--out", "both", "--device", "cpu")
    assert code == 0
    assert steel("ensemble", "one.safetensors", "images/a.jpg", "--out", "worse.safetensors")[0] == 2
    assert not (work / "worse.safetensors").exists()


def test_no_secret_of_a_url_is_printed_or_stored(work, steel):
    store, names = fsspec.filesystem("memory"), []
    for name in ("one", "two"):
        names.append(f"memory://user:5ecret@host/{name}.safetensors?sig=5ecret")
        store.pipe(names[-1], (work / f"{name}.safetensors").read_bytes())
    code, out, _ = steel("ensemble", *names, "--out", "memory://user:5ecret@host/both.safetensors")
    assert (code, out) == (0, "memory://host/both.safetensors: 2 members\n")
    stored = store.cat_file("/user:5ecret@host/both.safetensors")
    assert b"memory://host/one.safetensors" in stored and b"5ecret" not in stored
    code, _, err = steel("ensemble", names[0], names[1], names[0], "--out", "more.safetensors")
    assert code == 2 and "memory://host/one.safetensors: holds weights of memory://host/one.safetensors" in err
    assert "5ecret" not in err
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    code, out, _ = steel("export", names[0], "--onnx", "memory://user:5ecret@host/model.onnx")
    assert code == 0 and out.startswith("memory://host/model.onnx: ") and "5ecret" not in out


def test_export_says_what_it_wrote(work, steel):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    code, out, _ = steel("export", "one.safetensors", "--onnx", "model.onnx")
    assert code == 0
    assert "model.onnx: checked against the checkpoint at 6 sizes" in out
    session = onnxruntime.InferenceSession(work / "model.onnx", providers=["CPUExecutionProvider"])
    stored = json.loads(session.get_modelmeta().custom_metadata_map["steel"])["content"]
    assert stored["decision"] == DECISION.to_dict()
    assert stored["class_names"] == ["spot", "trace"]
    assert stored["tta"] == ["hflip"]
    assert stored["depth"] == {"rule": "8-bit", "low": 0, "high": 65535}
    assert stored["tiling"] == {"budget": 1 << 21, "tile": 1024, "overlap": 256}
    assert stored["stride"] == 4
    code, said, _ = steel("info", "model.onnx")
    assert code == 0
    assert said == steel("info", "one.safetensors")[1]


def test_a_place_that_cannot_be_written_is_told_before_the_graph_is_made(work, steel, monkeypatch):
    """As in /proc, where not even root makes files."""
    monkeypatch.setattr("steel.checkpoint.load_checkpoint", pytest.fail)
    code, _, error = steel("export", "one.safetensors", "--onnx", "/proc/one.onnx")
    assert (code, error) == (2, "error: /proc/one.onnx: no files can be made there; choose another place\n")

    def refuse(dir: object) -> None:
        raise PermissionError(13, "Permission denied", f"{dir}/tmpabc")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    code, _, error = steel("export", "one.safetensors", "--onnx", "one.onnx")
    assert code == 1 and error.startswith("error: ") and "Permission denied" in error and "tmpabc" not in error


@pytest.mark.slow
def test_export_refuses_a_graph_for_one_size_only(work, steel):
    pytest.importorskip("onnxruntime")
    network = NetworkConfig("UPerNet", "tu-test_resnet", num_classes=2, in_channels=1)
    tensors = {name: tensor[None] for name, tensor in UnifiedModel(network).state_dict().items()}
    save_checkpoint(work / "uper.safetensors", Checkpoint(network, ("a", "b"), (0.5,), (0.5,), tensors))
    code, _, err = steel("export", "uper.safetensors", "--onnx", "uper.onnx")
    assert code == 2
    assert "UPerNet on tu-test_resnet cannot be exported as ONNX" in err
    assert not (work / "uper.onnx").exists()

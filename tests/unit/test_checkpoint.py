"""The one-file checkpoint: what goes in comes out, and whatever is wrong with a file is said in one line."""

import contextlib
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steel import checkpoint as checkpoint_module
from steel.checkpoint import (
    Checkpoint,
    default_views,
    load_checkpoint,
    read_header,
    save_checkpoint,
    stack_members,
    unstack_members,
)
from steel.config import NetworkConfig, TilingConfig
from steel.decision import ClassDecision, Decision, default_decision
from steel.errors import InputError
from steel.images.pixel_format import Depth
from steel.reports.describe import describe_checkpoint

NETWORK = NetworkConfig("Unet", "tu-test_resnet", num_classes=2, in_channels=1, decoder_channels=(8, 8))


def make(seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "encoder.weight": torch.randn(1, 3, 2, 2, 2, generator=generator),
        "encoder.half": torch.randn(1, 5, generator=generator).bfloat16(),
        "encoder.num_batches_tracked": torch.tensor([7 + seed]),
        "head.bias": torch.randn(1, 3, generator=generator),
    }
    values = {
        "network": NETWORK,
        "class_names": ("Riß", "crack"),
        "mean": (0.1 + 0.2,),
        "std": (1 / 3,),
        "tensors": tensors,
        "decision": default_decision(2),
        "folds": {"train": [2, 3], "tuning": [0], "test": [1]},
        "provenance": {"data_digest": "d", "config": {"seed": 1}, "candidates": {3: 0.5, 20: 0.25}},
        "input_size": (128, 800),
        "depth": Depth("window", 100, 4000),
        "tiling": TilingConfig(1 << 20, 512, 128),
    }
    return Checkpoint(**{**values, **changes})


def same(left, right):
    plain = {f.name for f in dataclasses.fields(Checkpoint)} - {"tensors", "provenance"}
    return (
        all(getattr(left, name) == getattr(right, name) for name in plain)
        and left.tensors.keys() == right.tensors.keys()
        and all(torch.equal(left.tensors[k], right.tensors[k]) for k in left.tensors)
    )


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, make())
    return path


def test_round_trip(path):
    loaded = load_checkpoint(path)
    assert same(loaded, make())
    assert loaded.provenance == {**make().provenance, "candidates": {"3": 0.5, "20": 0.25}}  # as JSON has it
    assert loaded.members == 1
    assert loaded.member_state(0)["head.bias"].shape == (3,)
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_equal_checkpoints_are_equal_bytes(path, tmp_path):
    again = tmp_path / "again.safetensors"
    save_checkpoint(str(again), load_checkpoint(str(path)))
    assert again.read_bytes() == path.read_bytes()


def test_any_memory_format_and_shared_memory(tmp_path):
    weight = torch.randn(1, 4, 3, 2, 2)
    striped = weight[0].to(memory_format=torch.channels_last).unsqueeze(0)
    both = make(tensors={"a": striped, "b": striped, "c": torch.zeros(1, 0), "d": torch.randn(6)[::2].unsqueeze(0)})
    save_checkpoint(tmp_path / "m", both)
    loaded = load_checkpoint(tmp_path / "m").tensors
    assert torch.equal(loaded["a"], weight)
    assert torch.equal(loaded["b"], weight)
    assert torch.equal(loaded["d"], both.tensors["d"])
    assert loaded["c"].shape == (1, 0)


def test_other_tools_can_read_the_tensors(path):
    tensors = safetensors.torch.load_file(path)
    assert torch.equal(tensors["encoder.weight"], make().tensors["encoder.weight"])


def test_header_is_read_without_torch(path):
    code = (
        "import json, sys; from steel.checkpoint import read_header\n"
        f"header = read_header({str(path)!r})\n"
        "assert not {'torch', 'safetensors'} & set(sys.modules), 'heavy imports'\n"
        "print(json.dumps(header))"
    )
    root = Path(checkpoint_module.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    header = json.loads(run.stdout)
    assert header["class_names"] == ["Riß", "crack"]
    assert header["members"] == 1
    assert header["version"] == 1
    assert header["tensors"]["encoder.half"] == {"dtype": "BF16", "shape": [1, 5]}


def test_a_network_without_further_heads_says_nothing_of_them(path, tmp_path):
    """So that its bytes are those of a time without further heads; what reads it finds that there are none."""
    raw = path.read_bytes()
    table = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    stored = json.loads(table["__metadata__"]["steel"])["content"]["network"]
    assert list(stored) == ["architecture", "encoder", "num_classes", "in_channels", "decoder_channels", "dropout"]
    assert read_header(path)["network"] == {**stored, "heads": []}
    other = tmp_path / "other.safetensors"
    checkpoint = load_checkpoint(path)
    save_checkpoint(other, dataclasses.replace(checkpoint, network=dataclasses.replace(NETWORK, heads=("edges",))))
    assert load_checkpoint(other).network.heads == ("edges",)


def test_a_network_without_widths_of_its_own_comes_back(path, tmp_path):
    network = dataclasses.replace(NETWORK, architecture="FPN", decoder_channels=None)
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, dataclasses.replace(load_checkpoint(path), network=network))
    assert load_checkpoint(other).network == network


def test_failed_save_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, make(seed=1))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensors": {"module.a": torch.zeros(1, 2)}}, "unwrap"),
        ({"tensors": {"encoder._orig_mod.a": torch.zeros(1, 2)}}, "unwrap"),
        ({"tensors": {"a": torch.zeros(1, 2), "b": torch.zeros(2, 2)}}, "members"),
        ({"class_names": ("a",)}, "class names"),
        ({"mean": (0.5, 0.5, 0.5)}, "normalisation"),
        ({"std": (0.0,)}, "deviation"),
        ({"std": (float("nan"),)}, "deviation that is not finite"),
        ({"mean": (float("inf"),)}, "mean or .* not finite"),
    ],
)
def test_saving_refuses_what_could_not_be_used(tmp_path, changes, message):
    with pytest.raises(AssertionError, match=message):
        save_checkpoint(tmp_path / "m", make(**changes))
    assert list(tmp_path.iterdir()) == []


def readers_say(path):
    """The line that loading gives; there is one, and it names the file."""
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["encoder.weight", "encoder.half"])
def test_numbers_that_are_not_finite_are_neither_written_nor_read(tmp_path, monkeypatch, name, number):
    """In any member, and whatever stands beside them; the largest numbers that there are, whose sum overflows, are
    as good as others."""
    path = tmp_path / "m"
    large = {each: torch.full_like(tensor, 3e38) for each, tensor in make().tensors.items() if "num" not in each}
    pair = stack_members([make(tensors=large), make(tensors=large)])
    save_checkpoint(path, pair)
    assert same(load_checkpoint(path), pair)
    path.unlink()

    pair.tensors[name].view(2, -1)[1, 3] = number
    with pytest.raises(InputError, match=rf"{path}: not written: numbers in its {name} are not finite"):
        save_checkpoint(path, pair)
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as before:
        before.setattr(checkpoint_module, "_not_finite", lambda tensors: None)
        save_checkpoint(path, pair)
    assert f"numbers in its {name} are not finite" in readers_say(path)


def test_damaged_or_foreign_files_are_told(path, tmp_path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    cases = {
        b"": "not a checkpoint",
        b"abc": "not a checkpoint",
        b"PK\x03\x04" + bytes(200): "not a checkpoint",  # torch.save
        data[: length // 2]: "not a checkpoint",
        data[:-1]: "truncated",
        data + b"x": "truncated or damaged",
        data[:-1] + bytes([data[-1] ^ 1]): "weights do not match",
        safetensors.torch.save({"a": torch.zeros(1)}): "another program",
        safetensors.torch.save({"a": torch.zeros(1)}, metadata={"format": "pt"}): "another program",
        safetensors.torch.save({"a": torch.zeros(1)}, metadata={"steel": "[]"}): "header is damaged",
        data.replace(b'{\\"version\\":1', b'{\\"version\\":2'): "newer program.*upgrade",
        data.replace(b"crack", b"track"): "header does not match",
        data.replace(b"head.bias", b"head.bios"): "weights do not match",
    }
    for number, (content, message) in enumerate(cases.items()):
        bad = tmp_path / f"bad-{number}"
        bad.write_bytes(content)
        assert re.search(message, readers_say(bad)), (number, readers_say(bad))


@pytest.mark.parametrize("read", [load_checkpoint, read_header])
def test_an_exported_graph_is_told_apart(tmp_path, read):
    graph = tmp_path / "model.ONNX"
    graph.write_bytes(b"\x08\x0a\x12\x07pytorch" * 9)
    with pytest.raises(InputError, match=r"model\.ONNX: an exported graph, by its name; give the model\.safetensors"):
        read(graph)


def test_missing_files_and_folders(tmp_path):
    assert "no such file" in readers_say(tmp_path / "absent")
    assert "a folder" in readers_say(tmp_path)
    for bad in (tmp_path / "absent", tmp_path):
        with pytest.raises(InputError):
            read_header(bad)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("stored") / "model.safetensors"
    save_checkpoint(path, make())
    return path, path.read_bytes()


MANY = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MANY
@given(data=st.data())
def test_truncation_anywhere_is_found(stored, data):
    path, whole = stored
    header_end = 8 + int.from_bytes(whole[:8], "little")
    places = [st.integers(0, 16), st.integers(header_end - 4, header_end + 4), st.integers(0, len(whole) - 1)]
    bad = path.with_name("truncated")
    bad.write_bytes(whole[: data.draw(st.one_of(places))])
    readers_say(bad)
    with pytest.raises(InputError):
        read_header(bad)


@MANY
@given(data=st.data())
def test_a_flipped_bit_is_found_or_without_effect(stored, data):
    path, whole = stored
    header_end = 8 + int.from_bytes(whole[:8], "little")
    place = data.draw(st.one_of(st.integers(0, 7), st.integers(8, header_end - 1), st.integers(0, len(whole) - 1)))
    flipped = bytearray(whole)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    bad = path.with_name("flipped")
    bad.write_bytes(flipped)
    with contextlib.suppress(InputError):
        assert same(load_checkpoint(bad), make())  # such as 1e-05 written 1E-05
    with contextlib.suppress(InputError):
        assert read_header(bad)["class_names"] == list(make().class_names)


def test_every_flipped_bit_of_the_weights_is_found(stored):
    path, whole = stored
    header_end = 8 + int.from_bytes(whole[:8], "little")
    bad = path.with_name("weights")
    for place in np.linspace(header_end, len(whole) - 1, 40).astype(int):
        flipped = bytearray(whole)
        flipped[place] ^= 0x10
        bad.write_bytes(flipped)
        assert "weights do not match" in readers_say(bad)


def test_stacked_members_keep_their_weights(tmp_path):
    members = [make(seed) for seed in range(3)]
    ensemble = stack_members([stack_members(members[:2]), members[2]])
    save_checkpoint(tmp_path / "ensemble", ensemble)
    loaded = load_checkpoint(tmp_path / "ensemble")
    assert loaded.members == 3
    for index, member in enumerate(members):
        state = loaded.member_state(index)
        assert all(torch.equal(state[name], tensor[0]) for name, tensor in member.tensors.items())
    assert loaded.decision == members[0].decision
    assert loaded.network == NETWORK


def test_members_come_apart_as_they_went_in(tmp_path):
    """Also those of an ensemble in an ensemble; each has its own decision, which the average has not."""
    halves = [Decision((ClassDecision(60 + 10 * k),) * NETWORK.num_classes) for k in range(3)]
    members = [make(k, decision=halves[k], folds={"train": [k], "tuning": [], "test": []}) for k in range(3)]
    save_checkpoint(tmp_path / "all", stack_members([stack_members(members[:2], ["a", "b"]), members[2]], ["ab", "c"]))
    apart = unstack_members(load_checkpoint(tmp_path / "all"))
    assert [name for name, _ in apart] == ["a", "b", "c"]
    for (_, found), member in zip(apart, members, strict=True):
        assert (found.members, found.decision, found.folds) == (1, member.decision, member.folds)
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in member.tensors.items())
    silent = dataclasses.replace(stack_members(members), provenance={})  # of a file that says nothing of its members
    assert [(name, member.decision) for name, member in unstack_members(silent)] == [
        (f"member {k}", None) for k in (1, 2, 3)
    ]


def test_without_a_decision_the_flips_are_those_of_all_members(tmp_path):
    """Which they were tuned with; a member without a decision has none, and a file may say nothing of its members."""
    classes = (ClassDecision(),) * NETWORK.num_classes
    both, other, alone = (Decision(classes, tta=tta) for tta in (("hflip", "vflip"), ("hvflip", "vflip"), ("hvflip",)))
    for decisions, views in (
        ((both, both), ("hflip", "vflip")),
        ((both, other), ("vflip",)),
        ((both, other, alone), ()),
        ((both, None), ()),
        ((None,), ()),
    ):
        members = [make(seed, decision=decision) for seed, decision in enumerate(decisions)]
        save_checkpoint(tmp_path / "all", dataclasses.replace(stack_members(members), decision=None))
        loaded = load_checkpoint(tmp_path / "all")
        assert default_views(loaded) == views
        assert default_views(dataclasses.replace(loaded, provenance={})) == ()
        assert default_views(dataclasses.replace(loaded, decision=alone)) == ("hvflip",)


def test_stacking_is_careful_about_folds_and_decisions():
    first = make(folds={"train": [2, 3, 4], "tuning": [0], "test": [1, 5]})
    second = make(folds={"train": [0, 3], "tuning": [2, 5], "test": [1]}, decision=None)
    ensemble = stack_members([first, second], names=["a", "b"])
    assert ensemble.folds == {"train": [0, 2, 3, 4], "tuning": [5], "test": [1]}
    assert ensemble.decision is None
    assert ensemble.provenance.keys() == {"data_digest", "members"} and ensemble.provenance["data_digest"] == "d"
    known = {"data_digest": "d", "data_digests": ["c", "d"]}
    both = stack_members([make(seed, provenance=known) for seed in range(2)]).provenance
    assert {name: value for name, value in both.items() if name != "members"} == known
    assert [m["name"] for m in ensemble.provenance["members"]] == ["a", "b"]


def test_folds_of_different_shards_are_told_by_each_member_alone(tmp_path):
    """The same numbers mean other images."""
    members = [
        make(seed, folds={"train": [seed], "tuning": [0], "test": [3]}, provenance={"data_digest": digest})
        for seed, digest in ((1, "0123456789"), (2, "abcdefghij"))
    ]
    ensemble = stack_members(members, ["a", "b"])
    assert ("data_digest" in ensemble.provenance, ensemble.folds) == (False, {})
    assert [member.folds for _, member in unstack_members(ensemble)] == [member.folds for member in members]
    save_checkpoint(tmp_path / "both", stack_members([ensemble, members[0]], ["ab", "c"]))
    lines = describe_checkpoint(read_header(tmp_path / "both"))
    assert "folds          those of each member" in lines
    assert lines[-3:] == [
        "  member 1  a (train 1; tuning 0; test 3 of shards 01234567)",
        "  member 2  b (train 2; tuning 0; test 3 of shards abcdefgh)",
        "  member 3  c (train 1; tuning 0; test 3 of shards 01234567)",
    ]
    save_checkpoint(tmp_path / "all", stack_members([load_checkpoint(tmp_path / "both")] * 2, ["d", "e"]))
    assert read_header(tmp_path / "all")["folds"] == {}
    tuned = dataclasses.replace(load_checkpoint(tmp_path / "both"), folds={"tuning": [2]})
    save_checkpoint(tmp_path / "tuned", tuned)
    assert "folds          tuning 2; those of each member" in describe_checkpoint(read_header(tmp_path / "tuned"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("a", "b")}, r"second: differs from first in class names \(\('a', 'b'\), not"),
        (
            {"network": dataclasses.replace(NETWORK, encoder="resnet18")},
            "network .*Unet on resnet18, not Unet on tu-test",
        ),
        (
            {"network": dataclasses.replace(NETWORK, decoder_channels=(16, 8))},
            r"in network \(decoder channels \(16, 8\), not ",
        ),
        ({"mean": (0.5,)}, "mean"),
        ({"input_size": None}, "input size"),
        ({"depth": Depth("8-bit")}, "depth"),
        ({"tiling": TilingConfig()}, "tiling"),
    ],
)
def test_members_must_be_alike(changes, message):
    with pytest.raises(InputError, match=message):
        stack_members([make(), make(1, **changes)], names=["first", "second"])


def test_no_error_tells_the_secrets_of_a_url() -> None:
    fsspec.filesystem("memory").pipe("/model.safetensors?sig=5ecret", b"no checkpoint")
    for name in ("model.safetensors?sig=5ecret", "absent?sig=5ecret"):
        for read in (load_checkpoint, read_header):
            with pytest.raises(InputError, match=f"^memory://{name.partition('?')[0]}: ") as refused:
                read(f"memory://{name}")
            assert "5ecret" not in str(refused.value)

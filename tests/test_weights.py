"""Finding, reading and loading weights, and what bad files are answered with."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from checkpoints import FIXTURES, as_hugging_face, as_meta, as_trainer, canonical_state, isolate, small_spec, without_bias
from safetensors.torch import save_file
from small_nets import small_unet

from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.backbones.adapted import AdaptedBackbone
from nnunet_dino.backbones.catalogue import CATALOGUE, get_spec
from nnunet_dino.backbones.vit import Backbone
from nnunet_dino.backbones.weights import hub
from nnunet_dino.backbones.weights.loading import DIGEST_KEY, NAME_KEY

STATE = canonical_state()
DIGEST = weights.digest_of(STATE)


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two small backbones of equal shape in the catalogue, empty caches, and no network."""
    isolate(monkeypatch, tmp_path, "small", "twin")
    monkeypatch.setattr(socket, "socket", _no_network)


def _no_network(*_: object, **__: object) -> None:
    raise AssertionError("the network was used")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "cache" / "nnunet_dino" / "weights"
    folder.mkdir(parents=True)
    return folder


def put_into_hub_cache(cache: Path, repository: str, name: str, state: dict[str, torch.Tensor]) -> Path:
    folder = cache / f"models--{repository.replace('/', '--')}"
    path = folder / "snapshots" / "abc123" / name
    path.parent.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc123")
    save_file(state, path)
    return path


def hugging_face_folder(folder: Path, num_parts: int = 1, heads: int = 2) -> Path:
    folder.mkdir()
    tensors = as_hugging_face(STATE)
    (folder / "config.json").write_text(json.dumps({"model_type": "dinov3_vit", "num_attention_heads": heads}))
    if num_parts == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = sorted(tensors)
    parts = {f"part{index}.safetensors": names[index::num_parts] for index in range(num_parts)}
    for part, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, folder / part)
    index = {"weight_map": {key: part for part, keys in parts.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_digest_is_the_sha256_of_names_shapes_and_values() -> None:
    state = {"b": torch.tensor([[1.0, -2.0, 0.5]]), "a": torch.tensor([3.25, 4.0])}
    expected = hashlib.sha256(b"a 2\n" + struct.pack("<2f", 3.25, 4.0) + b"b 1,3\n" + struct.pack("<3f", 1.0, -2.0, 0.5))
    assert weights.digest_of(state) == expected.hexdigest()
    assert weights.digest_of(dict(reversed(state.items()))) == expected.hexdigest()
    assert weights.digest_of({"b": state["b"].T.contiguous().T, "a": state["a"]}) == expected.hexdigest()
    assert weights.digest_of({**state, "b": state["b"].T}) != expected.hexdigest()


def test_every_kind_of_file_gives_the_same_digest(tmp_path: Path) -> None:
    torch.save(as_meta(STATE), tmp_path / "meta.pth")
    torch.save(as_meta(STATE), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save(as_trainer(STATE), tmp_path / "teacher.pth")
    torch.save(as_hugging_face(STATE), tmp_path / "hf.pt")
    save_file(as_hugging_face(STATE, "model.layer"), tmp_path / "hf.safetensors")
    save_file(STATE, tmp_path / "timm.safetensors")
    hugging_face_folder(tmp_path / "whole")
    hugging_face_folder(tmp_path / "parts", num_parts=3)
    places = [*tmp_path.iterdir(), tmp_path / "parts" / "model.safetensors.index.json"]
    assert {weights.load("small", place).digest for place in places if place.name != "cache"} == {DIGEST}


OTHER = {key: tensor + 1 for key, tensor in STATE.items()}
WRAPPED: dict[str, Any] = {
    **{
        prefix: {prefix + key: tensor for key, tensor in as_meta(STATE).items()}
        for prefix in (
            *("module.", "_orig_mod.", "module._orig_mod.", "model.", "model.backbone.", "encoder.", "pretrained."),
            *("wrapped_model._model.", "net.vision.trunk."),
        )
    },
    "hugging face": {f"module._orig_mod.{key}": tensor for key, tensor in as_hugging_face(STATE).items()},
    "timm": {f"model.{key}": tensor for key, tensor in STATE.items()} | {"model.head.weight": torch.ones(3, 24)},
    "each block compiled": {key.replace("blocks.1.", "blocks.1._orig_mod."): tensor for key, tensor in as_meta(STATE).items()},
    "model": {"epoch": 3, "model": as_meta(STATE)},
    "lightning": {
        "state_dict": {f"model.backbone.{k}": t for k, t in as_meta(STATE).items()},
        "hyper_parameters": {"lr": 1e-3},
    },
    "average beside": {"model": as_meta(OTHER), "model_ema": as_meta(STATE), "optimizer": {"lr": 0.1}},
    "joined": {
        "iteration": 9,
        "model": {f"student.backbone.{key}": tensor for key, tensor in as_meta(OTHER).items()}
        | {f"teacher.backbone.{key}": tensor for key, tensor in as_meta(STATE).items()}
        | {"teacher.dino_head.mlp.0.weight": torch.ones(2, 3)},
    },
    "both": {
        "student": as_trainer(OTHER)["teacher"],
        "teacher": {f"module.{k}": t for k, t in as_trainer(STATE)["teacher"].items()},
    },
    "average of the state": {"state_dict": as_meta(OTHER), "state_dict_ema": as_meta(STATE)},
    "average, shadow": {"model": as_meta(OTHER), "ema": {"shadow": as_meta(STATE), "decay": 0.99}},
    "deep": {"checkpoint": {"model_state_dict": {"net": {f"module.{k}": t for k, t in as_meta(STATE).items()}}, "epoch": 3}},
    "student alone": {"student": as_trainer(STATE)["teacher"], "iteration": 7},
    "projection": as_meta(STATE) | {"projection.weight": torch.ones(3, 24), "logit_scale": torch.tensor(1.0)},
    "classifier": as_meta(STATE) | {"linear_head.weight": torch.ones(3, 24), "fc_norm.bias": torch.ones(24)},
    "nnU-Net": {
        "network_weights": {f"slice_encoder.backbone.backbone.vit.{key}": tensor for key, tensor in STATE.items()}
        | {"encoder.stages.0.0.convs.0.conv.weight": torch.ones(8, 1, 3, 3)},
        "logging": {"mean_fg_dice": [np.float64(0.5)]},
        "trainer_name": "nnUNetTrainerDINOv3Tiny_FT",
    },
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_backbone_is_found_inside_what_trainings_save(name: str, tmp_path: Path) -> None:
    torch.save(WRAPPED[name], tmp_path / "training.pth")
    assert weights.load("small", tmp_path / "training.pth").digest == DIGEST


def test_what_was_taken_and_what_was_left_is_said(tmp_path: Path) -> None:
    torch.save(WRAPPED["joined"], tmp_path / "training.pth")
    report = "\n".join(weights.load("small", tmp_path / "training.pth").report.lines())
    assert "taken from the network under teacher.backbone" in report
    assert "taken from model in the file" in report
    assert "student.backbone.cls_token" in report and "teacher.dino_head.mlp.*.weight (outside the backbone)" in report


def test_adapters_of_an_own_checkpoint_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backbone that is read computes what the adapted network did."""
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    network = small_unet(adaptation="lora", lora={"rank": 4, "alpha": 12.0}).eval()
    for name, parameter in network.slice_encoder.backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    torch.save({"network_weights": network.state_dict(), "logging": {"x": np.float32(1)}}, tmp_path / "checkpoint_final.pth")
    loaded = weights.load("dinov3_tiny", tmp_path / "checkpoint_final.pth")
    merged = AdaptedBackbone("dinov3_tiny", loaded=loaded)
    images = torch.randn(2, 3, 32, 48)
    for before, after in zip(network.slice_encoder.backbone(images), merged(images), strict=True):
        torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


def test_the_licence_is_that_of_a_release_only_where_the_file_is_one(tmp_path: Path) -> None:
    release = CATALOGUE["small"]
    torch.save(as_meta(STATE), tmp_path / release.meta_file)
    torch.save(as_meta(STATE), tmp_path / "EUPE-ViT-S.pt")
    assert weights.load("small", tmp_path / release.meta_file).licence == release.licence
    assert weights.load("small", tmp_path / "EUPE-ViT-S.pt").licence.startswith("of this file unknown; small as released:")


def test_a_new_file_counts_before_an_old_index(tmp_path: Path) -> None:
    folder = hugging_face_folder(tmp_path / "parts", num_parts=2)
    save_file(as_hugging_face(OTHER), folder / "model.safetensors")
    assert weights.load("small", folder).digest == weights.digest_of(OTHER)


@pytest.mark.parametrize("refs", [None, "abc\n", "abc\r\n", "gone"])
def test_a_cache_that_was_carried_by_hand_is_read(refs: str | None, tmp_path: Path) -> None:
    path = put_into_hub_cache(tmp_path / "hub", "timm/small_mirror", "model.safetensors", STATE)
    main = path.parents[2] / "refs" / "main"
    main.unlink()
    if refs is not None:
        main.write_text(refs, newline="")
    assert weights.locate("small") == path


def test_parts_of_older_files_are_read(tmp_path: Path) -> None:
    tensors = as_hugging_face(STATE)
    parts = {key: f"pytorch_model-0000{1 + place % 2}-of-00002.bin" for place, key in enumerate(sorted(tensors))}
    for part in set(parts.values()):
        torch.save({key: tensors[key] for key, name in parts.items() if name == part}, tmp_path / part)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": parts}))
    assert weights.load("small", tmp_path).digest == DIGEST


@pytest.mark.parametrize(
    ("file", "processor", "expected"),
    [
        ("preprocessor_config.json", {}, (0.4, 0.2)),
        ("preprocessor_config.json", {"rescale_factor": 1 / 127.5}, (0.2, 0.1)),
        ("preprocessor_config.json", {"do_normalize": False}, (0, 1)),
        ("preprocessor_config.json", {"do_rescale": False, "image_mean": [102] * 3, "image_std": [51] * 3}, (0.4, 0.2)),
        ("preprocessor_config.json", {"image_mean": [102] * 3, "image_std": [51] * 3}, None),
        ("processor_config.json", {}, (0.4, 0.2)),
    ],
)
def test_statistics_are_those_of_values_from_0_to_1(
    file: str, processor: dict[str, Any], expected: tuple[float, float] | None, tmp_path: Path
) -> None:
    hugging_face_folder(tmp_path / "model")
    content = {"image_mean": [0.4] * 3, "image_std": [0.2] * 3, **processor}
    content = {"image_processor": content} if file == "processor_config.json" else content
    (tmp_path / "model" / file).write_text(json.dumps(content))
    if expected is None:
        with pytest.raises(UserError, match="from 0 to 1 .* got .102"):
            weights.load("small", tmp_path / "model")
        return
    found = weights.load("small", tmp_path / "model").statistics
    assert found is not None
    assert [*found[0], *found[1]] == pytest.approx([expected[0]] * 3 + [expected[1]] * 3)


def test_loaded_weights_fit_the_backbone_exactly(tmp_path: Path) -> None:
    save_file(without_bias(STATE), tmp_path / "timm.safetensors")
    loaded = weights.load("small", tmp_path / "timm.safetensors")
    backbone = Backbone(get_spec("small"))
    backbone.vit.load_state_dict(loaded.state, strict=True)
    assert list(loaded.state) == list(backbone.vit.state_dict())
    assert all(torch.equal(backbone.vit.state_dict()[name], STATE[name]) for name in without_bias(STATE))
    assert loaded.source == str(tmp_path / "timm.safetensors")
    assert len(loaded.report.filled) == 6


def test_transformers_own_files_are_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    content = torch.load(FIXTURES / "dinov3_huggingface.pt", weights_only=True)
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_register_tokens")
    model = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**{key: content["config"][key] for key in sizes}))
    model.load_state_dict(content["checkpoint"])
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "parts", max_shard_size="1MB")
    assert (tmp_path / "parts" / "model.safetensors.index.json").is_file()
    spec = small_spec("small", embed_dim=128, depth=3, num_heads=2, mlp_ratio=4)
    torch.save(content["checkpoint"], tmp_path / "dictionary.pt")
    digests = {weights.load_file(tmp_path / name, spec).digest for name in ("whole", "parts", "dictionary.pt")}
    assert len(digests) == 1


def test_the_hash_in_a_name_of_meta_is_checked_and_other_digits_are_none(tmp_path: Path) -> None:
    torch.save(as_meta(STATE), tmp_path / "plain.pth")
    digits = hashlib.sha256((tmp_path / "plain.pth").read_bytes()).hexdigest()[:8]
    good = f"dinov3_vitx16_pretrain_lvd1689m-{digits}.pth"
    for name in (good, "mine_20260131.pth", "teacher_00050000.pth", "dinov3_ct-3fa85f64.pth"):
        (tmp_path / name).write_bytes((tmp_path / "plain.pth").read_bytes())
        assert weights.load("small", tmp_path / name).digest == DIGEST


def test_order_of_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: Path) -> None:
    assert weights.locate("small") is None
    in_cache = put_into_hub_cache(tmp_path / "hub", "timm/small_mirror", "model.safetensors", STATE)
    assert weights.locate("small") == in_cache
    assert weights.locate("twin") is None
    in_store = store / "small.safetensors"
    save_file(STATE, in_store)
    assert weights.locate("small") == in_store
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, str(folder))
    assert weights.locate("small") == in_store
    torch.save(as_meta(STATE), folder / "small_pretrain.pth")
    assert weights.locate("small") == folder / "small_pretrain.pth"
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, str(tmp_path / "named.pth"))
    with pytest.raises(UserError, match=r"got .*named\.pth, which does not exist"):
        weights.locate("small")
    torch.save(as_meta(STATE), tmp_path / "named.pth")
    assert weights.locate("small") == tmp_path / "named.pth"
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, "random")
    assert weights.locate("small") is None
    assert weights.wants_random()


@pytest.mark.parametrize("place", ["small.safetensors", "small_mirror", "timm--small_mirror", "authors--small_asked", "cache"])
def test_names_that_a_folder_is_searched_for(place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if place == "cache":
        expected = put_into_hub_cache(folder, "authors/small_asked", "model.safetensors", as_hugging_face(STATE))
    elif place.endswith(".safetensors"):
        expected = folder / place
        save_file(STATE, expected)
    else:
        expected = hugging_face_folder(folder / place) / "model.safetensors"
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, str(folder))
    assert weights.locate("small") == expected
    assert weights.load("small").digest == DIGEST


def test_a_model_folder_in_the_variable_is_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = hugging_face_folder(tmp_path / "model", num_parts=2)
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, str(folder))
    assert weights.locate("small") == folder
    with pytest.raises(UserError, match=r"required the tensors of dinov3_tiny · got .*model .* the file fits small or twin"):
        weights.load("dinov3_tiny")


def test_a_file_in_the_variable_that_does_not_fit_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: Path
) -> None:
    tiny = Backbone(get_spec("dinov3_tiny"), random=True).vit.state_dict()
    save_file(tiny, store / "dinov3_tiny.safetensors")
    save_file(STATE, tmp_path / "named.safetensors")
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, str(tmp_path / "named.safetensors"))
    with pytest.raises(UserError, match=r"required the tensors of dinov3_tiny · got .*named\.safetensors"):
        weights.load("dinov3_tiny")


def test_a_file_that_says_it_is_another_backbones_is_refused(tmp_path: Path) -> None:
    torch.save(as_meta(STATE), tmp_path / "twin_pretrain.pth")
    with pytest.raises(UserError, match=r"required those of small · got .*twin_pretrain\.pth, which holds twin"):
        weights.load("small", tmp_path / "twin_pretrain.pth")
    save_file(STATE, tmp_path / "x.safetensors", {NAME_KEY: "twin", DIGEST_KEY: DIGEST})
    with pytest.raises(UserError, match=r"required those of small · got .*x\.safetensors, which holds twin"):
        weights.load("small", tmp_path / "x.safetensors")
    assert weights.load("twin", tmp_path / "x.safetensors").digest == DIGEST


def test_a_changed_import_is_noticed(tmp_path: Path) -> None:
    save_file(canonical_state(seed=1), tmp_path / "x.safetensors", {NAME_KEY: "small", DIGEST_KEY: DIGEST})
    with pytest.raises(UserError, match=rf"required digest {DIGEST}, which .*x\.safetensors states · got [0-9a-f]{{64}}"):
        weights.load("small", tmp_path / "x.safetensors")


def test_equal_candidates_are_fine_and_different_ones_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, str(tmp_path))
    save_file(STATE, tmp_path / "small.safetensors")
    torch.save(as_meta(STATE), tmp_path / "small_pretrain.pth")
    assert weights.locate("small") == tmp_path / "small.safetensors"
    torch.save(as_meta(canonical_state(seed=1)), tmp_path / "small_pretrain.pth")
    with pytest.raises(UserError, match=rf"small\.safetensors \(digest {DIGEST[:12]}\) and .*small_pretrain\.pth \(digest"):
        weights.locate("small")


def test_random_is_never_loaded(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    save_file(STATE, store / "small.safetensors")
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, "random")
    for ask in (weights.load, weights.ensure_local):
        with pytest.raises(UserError, match=r"weights of small: .* got nnUNet_dino_weights=random"):
            ask("small")


def test_missing_weights_are_explained() -> None:
    with pytest.raises(UserError, match=r"weights of small · got none .* run `nnunet-dino weights fetch small`") as caught:
        weights.load("small")
    assert str(caught.value) == weights.missing_weights_message("small")
    for part in (
        "timm/small_mirror (open mirror, same licence)",
        "https://huggingface.co/authors/small_asked",
        "import FILE --as small",
    ):
        assert part in str(caught.value)
    assert "with digest 0123abcd" in weights.missing_weights_message("small", "0123abcd")
    assert "export nnUNet_dino_weights=random" in weights.missing_weights_message("dinov3_tiny")


def test_offline_is_said_without_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"download of small: .* HF_HUB_OFFLINE=1 .* ask for access at https://.*authors/small_asked"
    ):
        weights.ensure_local("small")


def test_download_takes_the_open_mirror_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    asked = []

    def download(repository: str, name: str, token: bool) -> str:
        assert token is False  # an expired one would be refused
        asked.append((repository, name))
        return str(put_into_hub_cache(tmp_path / "hub", repository, name, STATE))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    path = weights.ensure_local("small")
    assert asked == [("timm/small_mirror", "model.safetensors")]
    assert path == weights.locate("small")
    said = capsys.readouterr().err
    assert "small from https://huggingface.co/timm/small_mirror" in said
    assert "DINOv3 License" in said
    assert weights.ensure_local("small") == path
    assert len(asked) == 1


SLOW_DOWNLOAD = """
import sys, time
from pathlib import Path
import huggingface_hub
from checkpoints import canonical_state, small_spec
from safetensors.torch import save_file
from test_weights import put_into_hub_cache
from nnunet_dino.backbones import weights
from nnunet_dino.backbones.catalogue import CATALOGUE

folder = Path(sys.argv[1])
CATALOGUE["small"] = small_spec("small")
huggingface_hub.constants.HF_HUB_CACHE = str(folder / "hub")

def download(repository, name, token):
    with open(folder / "downloads", "a") as log:
        print("one", file=log)
    time.sleep(1)
    return str(put_into_hub_cache(folder / "hub", repository, name, canonical_state()))

huggingface_hub.hf_hub_download = download
print("ready", flush=True)
sys.stdin.readline()
print(weights.load("small", weights.ensure_local("small")).digest)
"""


@pytest.mark.slow
def test_of_two_processes_one_downloads_and_the_other_finds_the_file(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SLOW_DOWNLOAD, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[0].strip() for process in processes] == [DIGEST, DIGEST]
    assert (tmp_path / "downloads").read_text() == "one\n"


def test_a_failed_download_names_pages_and_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host\nmore lines")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    message = (
        r"got https://huggingface\.co/timm/small_mirror: ConnectionError no route to host · .*"
        r"ask for access at https://huggingface\.co/authors/small_asked .*then run `nnunet-dino weights import FILE --as small`"
    )
    with pytest.raises(UserError, match=message):
        weights.ensure_local("small")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (lambda: answered(401), "HTTP 401: refused, by a proxy or for a token without access"),
        (lambda: answered(403), "HTTP 403: refused"),
        (lambda: answered(429), "HTTP 429"),
        (
            lambda: huggingface_hub.errors.FileMetadataError("no commit"),
            "an answer that is not the hub's, such as a login page",
        ),
        (lambda: None, "no connection"),
    ],
)
def test_what_the_hub_answered_is_said(error: Callable, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot find it") from error()

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://mirror.example")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    with pytest.raises(
        UserError, match=rf"got https://mirror\.example/timm/small_mirror: {re.escape(said)}.*; HF_ENDPOINT is set"
    ):
        weights.ensure_local("small")


def answered(status: int) -> Exception:
    error = RuntimeError(f"Client error '{status}'")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    "name",
    [
        *("teacher_checkpoint.pth", "mine.safetensors", "last.ckpt"),
        *("eval/training_12499/teacher_checkpoint.pth", "ckpt/9/__0_0.distcp"),
    ],
)
def test_a_named_folder_is_not_passed_over(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: Path) -> None:
    """Its file has a name that no backbone has; the store has other weights."""
    save_file(STATE, store / "small.safetensors")
    (tmp_path / "mine" / name).parent.mkdir(parents=True)
    (tmp_path / "mine" / name).write_bytes(b"...")
    monkeypatch.setenv("nnUNet_dino_weights", str(tmp_path / "mine"))
    with pytest.raises(UserError, match=rf"got {name} in {tmp_path / 'mine'} · name the file itself"):
        weights.locate("small")


def test_that_a_named_folder_holds_none_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty one is a store to be filled, so it is not refused."""
    save_file(STATE, store / "small.safetensors")
    assert weights.ensure_local("small") == store / "small.safetensors" and capsys.readouterr().err == ""
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.setenv("nnUNet_dino_weights", str(folder))
    weights.ensure_local("small")
    expected = (
        f"nnunet-dino: nnUNet_dino_weights ({folder}) has no weights of small; taken are those of {store}/small.safetensors\n"
    )
    assert capsys.readouterr().err == expected
    save_file(STATE, folder / "small.safetensors")
    assert weights.ensure_local("small") == folder / "small.safetensors" and capsys.readouterr().err == ""


def test_a_named_folder_with_a_model_and_no_configuration_is_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hugging_face_folder(tmp_path / "mine")
    (tmp_path / "mine" / "config.json").unlink()
    monkeypatch.setenv("nnUNet_dino_weights", str(tmp_path / "mine"))
    assert weights.locate("small") == tmp_path / "mine"


def test_the_gated_repository_is_tried_by_who_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("mirror is down")

    def snapshot(repository: str, allow_patterns: list[str]) -> str:
        assert repository == "authors/small_asked"
        return str(hugging_face_folder(tmp_path / "snapshot"))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    assert weights.load("small", weights.ensure_local("small")).digest == DIGEST


def test_a_backbone_on_no_hub_is_not_downloaded() -> None:
    with pytest.raises(UserError, match=r"got dinov3_tiny, which is on no hub"):
        weights.ensure_local("dinov3_tiny")


def test_a_model_in_parts_counts_only_when_complete(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "models--authors--small_asked"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123")
    (folder / "snapshots").mkdir()
    parts = hugging_face_folder(folder / "snapshots" / "abc123", num_parts=2)
    assert hub.cached(get_spec("small")) == [parts / "model.safetensors.index.json"]
    assert weights.load("small").digest == DIGEST
    (parts / "part0.safetensors").unlink()
    assert hub.cached(get_spec("small")) == []
    assert weights.locate("small") is None


def test_an_unknown_backbone_is_named() -> None:
    with pytest.raises(UserError, match=r"got 'smal'; did you mean 'small'"):
        weights.locate("smal")

"""The engine of pretraining: heads, groups, steps, going on, several processes, exports."""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pretrain_data import CONFIGURATION, DATASET, small, write_preprocessed
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from nnunet_dino import load_backbone
from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.backbones.catalogue import get_spec
from nnunet_dino.backbones.vit import Backbone
from nnunet_dino.backbones.weights.store import import_file
from nnunet_dino.pretrain import checkpoint, folder
from nnunet_dino.pretrain.estimate import memory_of
from nnunet_dino.pretrain.groups import BACKBONE, HEADS, parameter_groups
from nnunet_dino.pretrain.head import standardised_over_batch
from nnunet_dino.pretrain.losses import koleo_loss
from nnunet_dino.pretrain.recipe import Recipe
from nnunet_dino.pretrain.sinkhorn import sinkhorn_targets
from nnunet_dino.pretrain.slices import Case, find_cases
from nnunet_dino.pretrain.start import start_from_weights
from nnunet_dino.pretrain.step import Engine, schedules_of
from nnunet_dino.pretrain.stream import Batch, Stream

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits and tolerances are those of float32, also where the processor has bfloat16."""
    monkeypatch.setenv("nnUNet_dino_precision", "float32")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Case]]:
    root = tmp_path_factory.mktemp("preprocessed")
    write_preprocessed(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_preprocessed", str(root))
        yield find_cases([DATASET], CONFIGURATION, "nnUNetPlans", small())


def engine_of(recipe: Recipe) -> Engine:
    return Engine(start_from_weights("dinov3_tiny", recipe).model, recipe, CPU)


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class TestStudent:
    def test_without_a_mask_it_is_timms_forward_pass(self) -> None:
        model = start_from_weights("dinov3_tiny", small()).model.eval()
        images = torch.randn(2, 3, 32, 48)
        with torch.no_grad():
            expected = model.backbone.forward_features(images)
            seen = model.tokens(images, torch.zeros(2, 2, 3, dtype=torch.bool))
        assert torch.equal(seen.class_tokens, expected[:, 0])
        assert torch.equal(seen.patches, expected[:, 5:])

    def test_what_a_mask_hides_changes_nothing(self) -> None:
        model = start_from_weights("dinov3_tiny", small()).model.eval()
        images, mask = torch.randn(2, 3, 32, 48), torch.zeros(2, 2, 3, dtype=torch.bool)
        mask[0, 1, 2] = True
        other = images.clone()
        other[0, :, 16:, 32:] = 7
        with torch.no_grad():
            assert torch.equal(model.tokens(images, mask).patches, model.tokens(other, mask).patches)
            assert not torch.equal(model.tokens(images, mask).patches[0], model.tokens(images).patches[0])
            assert torch.equal(model.tokens(images, mask).patches[1], model.tokens(images).patches[1])

    @pytest.mark.parametrize("name", ["dinov3_tiny", "meddinov3_vitb16"])
    def test_rescaled_positions_are_those_of_timm(self, name: str) -> None:
        rope = Backbone(get_spec("dinov3_tiny"), random=True).vit.rope
        rope.rescale_coords, rope.aug_active = 2.0, True
        rope.train()
        torch.manual_seed(3)
        factor = float(torch.empty(1).uniform_(-math.log(2), math.log(2)).exp())
        torch.manual_seed(3)
        expected = rope.get_embed(shape=(2, 3))
        rope.aug_active, periods = False, rope.periods
        rope.periods = periods / factor
        assert torch.allclose(rope.get_embed(shape=(2, 3)), expected, atol=1e-6)


class TestHead:
    def test_has_upstreams_parts_and_unit_length(self) -> None:
        head = start_from_weights("dinov3_tiny", small("scratch", "unit_prototypes=false", "head_layers=3")).model.dino_head
        assert [tuple(p.shape) for p in head.parameters()] == [(24, 128), (24,), (24, 24), (24,), (8, 24), (8,), (32, 8)]
        tokens = torch.randn(5, 128)
        assert torch.equal(head(tokens), head.prototypes(nn.functional.normalize(standardised_over_batch(head.mlp(tokens)))))

    def test_standardising_is_torchs_batch_norm(self) -> None:
        points = torch.randn(6, 5, requires_grad=True)
        other = points.detach().clone().requires_grad_()
        ours, theirs = standardised_over_batch(points), nn.BatchNorm1d(5, affine=False)(other)
        assert torch.allclose(ours, theirs, atol=1e-6)
        ours.square().mul(torch.arange(5.0)).sum().backward()
        theirs.square().mul(torch.arange(5.0)).sum().backward()
        assert torch.allclose(points.grad, other.grad, atol=1e-5)


class TestGroups:
    def test_every_parameter_once_slower_towards_the_input_and_decayed_by_kind(self) -> None:
        recipe = small("scratch", "layer_decay=0.5", "patch_embed_lr=0.2")
        model = start_from_weights("dinov3_tiny", recipe).model
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = parameter_groups(model, recipe)
        found = {names[id(p)]: group for group in groups for p in group["params"]}
        assert len(found) == sum(len(group["params"]) for group in groups) == len(names)
        for name, factor in {
            "backbone.patch_embed.proj.weight": 0.2 * 0.5**5,
            "backbone.cls_token": 0.5**5,
            "backbone.reg_token": 0.5**5,
            "mask_token": 0.5**5,
            "backbone.blocks.0.mlp.fc1.weight": 0.5**4,
            "backbone.blocks.3.attn.qkv.weight": 0.5,
            "backbone.norm.weight": 1,
            "dino_head.mlp.0.weight": 1,
        }.items():
            assert found[name]["lr_factor"] == pytest.approx(factor), name
        undecayed = {name for name, group in found.items() if group["decay_factor"] == 0}
        assert undecayed == {n for n in found if any(part in n for part in ("bias", "norm", "gamma"))}
        parts = {
            part: {n.split(".")[0] for n, g in found.items() if g["part"] == part} for part in (BACKBONE, HEADS, "last layer")
        }
        assert parts == {
            BACKBONE: {"backbone", "mask_token"},
            HEADS: {"dino_head", "ibot_head"},
            "last layer": {"dino_head", "ibot_head"},
        }

    def test_learning_rate_and_momentum_follow_the_batch(self) -> None:
        recipe = small("adapt", "batch=200", "warmup=0", "frozen_backbone=0")
        schedules = schedules_of(recipe)
        assert schedules.lr(3) == pytest.approx(recipe.lr / 2)
        assert schedules.momentum(3) == pytest.approx(0.994**0.25)


class TestStep:
    @pytest.mark.slow
    def test_the_loss_falls_on_the_same_slices(self, cases: list[Case]) -> None:
        recipe = small("scratch", "batch=8", "iterations=40", "lr_end=1", "momentum_end=0.98", "koleo_weight=0")
        engine, batch = engine_of(recipe), Stream(cases, recipe)[0]
        metrics = [engine.step(batch, step) for step in range(24)]
        for name in ("loss_dino", "loss_ibot"):
            first, last = (np.mean([row[name] for row in part]) for part in (metrics[2:6], metrics[-4:]))
            assert last < first - 0.02, name

    def test_the_teacher_gets_no_gradient_and_follows(self, cases: list[Case]) -> None:
        recipe = small("scratch", "warmup=0", "momentum=0.9", "reference_batch=4")
        engine = engine_of(recipe)
        before = state_of(engine.teacher)
        engine.step(Stream(cases, recipe)[0], 0)
        assert all(p.grad is None and not p.requires_grad for p in engine.teacher.parameters())
        for name, value in engine.student.named_parameters():
            expected = 0.9 * before[name] + 0.1 * value.detach()
            assert torch.allclose(dict(engine.teacher.named_parameters())[name], expected, atol=1e-6), name

    def test_frozen_parts_stay_bit_for_bit_and_keep_their_moments(self, cases: list[Case]) -> None:
        recipe = small("scratch", "frozen_backbone=2", "frozen_last_layer=2", "warmup=0")
        engine, stream = engine_of(recipe), Stream(cases, recipe)
        before = state_of(engine.student)
        for step in range(2):
            engine.step(stream[step], step)
        after = state_of(engine.student)
        frozen = {n for n in before if n.startswith("backbone.") or n == "mask_token" or "prototypes" in n}
        assert {n for n in before if torch.equal(before[n], after[n])} == frozen
        moments = engine.optimizer.state[engine.student.dino_head.prototypes.weight]
        assert moments["exp_avg"].abs().max() > 0
        engine.step(stream[2], 2)
        assert not torch.equal(before["backbone.cls_token"], engine.student.backbone.cls_token)

    def test_a_step_that_is_not_finite_changes_nothing_and_is_named(self, cases: list[Case]) -> None:
        recipe = small()
        engine, batch = engine_of(recipe), Stream(cases, recipe)[0]
        engine.step(batch, 0)
        before, moments = state_of(engine.student), engine.optimizer.state_dict()["state"][0]["exp_avg"].clone()
        batch.global_views[5] = torch.nan
        engine.step(batch, 1)
        assert equal(before, state_of(engine.student))
        assert torch.equal(moments, engine.optimizer.state_dict()["state"][0]["exp_avg"])
        assert (engine.skipped, engine.skipped_in_a_row) == (1, 1)
        assert engine.suspects(batch) == [batch.names[1]]
        engine.step(Stream(cases, recipe)[2], 2)
        assert (engine.skipped, engine.skipped_in_a_row) == (1, 0)

    @pytest.mark.parametrize("name", ["adapt", "anchor", "sharpen", "scratch"])
    def test_every_recipe_takes_steps(self, cases: list[Case], name: str) -> None:
        changes = ["start=random", "frozen_backbone=0", "size_shares=1", "gram_refresh=1"]
        recipe = small(name, *changes, "warmup=0", "lr=1e-3", "reference_batch=4")
        engine, stream = engine_of(recipe), Stream(cases, recipe)
        gram = state_of(engine.gram_teacher) if engine.gram_teacher else {}
        metrics = [engine.step(stream[step], step) for step in range(2)]
        assert engine.skipped == 0
        assert ("loss_gram" in metrics[0]) == bool(gram)
        if gram:
            assert metrics[1]["loss_gram"] > 0
            assert equal(gram, state_of(engine.gram_teacher)) == (recipe.gram_teacher == "start")
            if recipe.gram_teacher == "ema":
                assert equal(state_of(engine.teacher), state_of(engine.gram_teacher))


@pytest.mark.slow
def test_six_steps_are_three_and_three_after_a_checkpoint(cases: list[Case], tmp_path: Path) -> None:
    recipe = small("anchor", "start=random", "drop_path=0.2", "frozen_backbone=1", "gram_refresh=2")
    stream = Stream(cases, recipe)
    whole = engine_of(recipe)
    for step in range(6):
        whole.step(stream[step], step)
    first = engine_of(recipe)
    for step in range(3):
        first.step(stream[step], step)
    checkpoint.save(tmp_path, first, 3, {})
    second = engine_of(recipe)
    torch.manual_seed(99)
    assert checkpoint.restore(second, folder.read(tmp_path)) == 3
    fresh = Stream(cases, recipe)
    for step in range(3, 6):
        second.step(fresh[step], step)
    assert equal(state_of(whole.student), state_of(second.student))
    assert equal(state_of(whole.teacher), state_of(second.teacher))
    assert equal(state_of(whole.gram_teacher), state_of(second.gram_teacher))


def test_an_export_gives_the_teachers_tokens_and_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(small())
    record = {"backbone": "dinov3_tiny", "licence": "as you like", "cases": {"train": ["a", "b"]}, "recipe": small().to_json()}
    digest = checkpoint.export(tmp_path / "teacher.safetensors", engine.teacher.backbone, record, 6)
    encoder = load_backbone(tmp_path / "teacher.safetensors")
    assert (encoder.name, encoder.digest) == ("dinov3_tiny", digest)
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        seen = engine.teacher.tokens(images)
    assert torch.equal(encoder(images).patch_maps[-1].flatten(2).mT, seen.patches)
    with safe_open(tmp_path / "teacher.safetensors", framework="pt") as file:
        metadata = file.metadata()
    said = json.loads(metadata["nnunet_dino_pretraining"])
    assert (metadata["licence"], said["iterations_done"], said["cases"]["train"]["number"]) == ("as you like", 6, 2)
    monkeypatch.setenv(weights.STORE_VARIABLE, str(tmp_path / "store"))
    kept, _ = import_file(tmp_path / "teacher.safetensors")
    assert weights.load_file(kept).pretraining == metadata["nnunet_dino_pretraining"]


def test_weights_that_were_shown_other_colours_say_so(tmp_path: Path) -> None:
    path, state = tmp_path / "own.safetensors", Backbone(get_spec("dinov3_tiny"), random=True).vit.state_dict()
    save_file(state, path, {"nnunet_dino_pretraining": json.dumps({"recipe": small("scratch", "rgb=neighbours").to_json()})})
    own = load_backbone(path).backbone
    assert "pretrained with rgb: neighbours and see slices as repeat" in own.says_of_colours("repeat")
    assert not own.says_of_colours("neighbours")
    save_file(state, path)
    assert not load_backbone(path).backbone.says_of_colours("repeat")
    save_file(state, path, {"nnunet_dino_pretraining": "{}"})
    with pytest.raises(UserError, match="damaged weights: required the recipe of a pretraining .* got '{}'"):
        load_backbone(path)


@pytest.mark.parametrize("name", ["dinov3_tiny", "dinov3_tiny_swiglu"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_memory_by_arithmetic_is_what_autograd_keeps(
    cases: list[Case], monkeypatch: pytest.MonkeyPatch, name: str, precision: str
) -> None:
    monkeypatch.setenv("nnUNet_dino_precision", precision)
    recipe = small("adapt", "start=random", "frozen_backbone=0", "drop_path=0.1", "layer_scale=1")
    engine, batch = Engine(start_from_weights(name, recipe).model, recipe, CPU), Stream(cases, recipe)[0]
    weights = {p.untyped_storage()._cdata for p in engine.student.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = tensor  # alive, so that no storage takes its number
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), engine.autocast():
        engine.student.tokens(batch.global_views)
        engine.student.tokens(batch.local_views)
    counted = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    stays, step = memory_of(engine.student, recipe, recipe.batch, precision == "bfloat16")
    assert step == pytest.approx(counted, rel=0.2)
    assert stays == 20 * sum(p.numel() for p in engine.student.parameters())


# Two processes.


def in_processes(function: Callable[..., None], *arguments: object) -> None:
    """Runs a function in two processes of one group.

    They are forks of a process that has the imports, not of this one, in which autograd may have started threads.
    """
    multiprocessing.set_forkserver_preload(["torch", "nnunet_dino.pretrain.step"])
    mp.start_processes(_worker, (function, arguments, _free_port()), nprocs=2, start_method="forkserver")


def _free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _worker(rank: int, function: Callable[..., None], arguments: tuple[object, ...], port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    function(rank, *arguments)
    dist.destroy_process_group()


def _parts_agree(rank: int, path: Path) -> None:
    data = torch.load(path)
    logits, tokens = data["logits"], data["tokens"]
    rows = slice(0, 3) if rank == 0 else slice(3, None)  # 3 and 8 rows
    expected = data["targets"][rows]
    assert torch.allclose(sinkhorn_targets(logits[rows], 0.1), expected, atol=1e-6)
    rows = slice(4 * rank, 4 * rank + 4)
    own = tokens[rows].clone().requires_grad_()
    from nnunet_dino.pretrain.distributed import gathered

    koleo_loss(own, gathered(own), 4 * rank).backward()
    assert torch.allclose(own.grad / 2, data["koleo_gradient"][rows], atol=1e-6)
    own = tokens[rows].clone().requires_grad_()
    (standardised_over_batch(own) ** 3).sum().backward()
    assert torch.allclose(own.grad, data["norm_gradient"][rows], atol=1e-4)


def _steps_agree(rank: int, cases: list[Case], recipe: Recipe, path: Path) -> None:
    engine, stream = engine_of(recipe), Stream(cases, recipe, rank, 2)
    for step in range(3):
        batch = stream[step]
        if step == 1 and rank == 1:
            batch.global_views[0] = torch.inf
        engine.step(batch, step)
        if step == 1:
            assert engine.suspects(batch) == [Stream(cases, recipe)[1].names[2]]
    assert engine.skipped == 1
    if rank == 0:
        torch.save({"student": engine.student.state_dict(), "teacher": engine.teacher.state_dict()}, path)


@pytest.mark.slow
def test_two_processes_are_one(cases: list[Case], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, tokens = torch.randn(11, 7, generator=generator), torch.randn(8, 5, generator=generator)
    leaf, other = tokens.clone().requires_grad_(), tokens.clone().requires_grad_()
    koleo_loss(leaf).backward()
    (standardised_over_batch(other) ** 3).sum().backward()
    torch.save(
        {
            "logits": logits,
            "targets": sinkhorn_targets(logits, 0.1),
            "tokens": tokens,
            "koleo_gradient": leaf.grad,
            "norm_gradient": other.grad,
        },
        tmp_path / "parts.pt",
    )
    in_processes(_parts_agree, tmp_path / "parts.pt")
    changes = ("drop_path=0", "frozen_backbone=0", "lr=1e-3", "warmup=0", "layer_scale=1")
    recipe = small("anchor", "start=random", *changes)
    in_processes(_steps_agree, cases, recipe, tmp_path / "two.pt")
    engine, stream = engine_of(recipe), Stream(cases, recipe)
    for step in (0, 2):
        engine.step(stream[step], step)
    two = torch.load(tmp_path / "two.pt")
    for part in ("student", "teacher"):
        for name, value in getattr(engine, part).state_dict().items():
            assert torch.allclose(two[part][name], value, atol=1e-5), name


def test_a_damaged_case_is_one_line(cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = cases[0].source
    broken = Case(type(source)(source.dataset, tmp_path, source.channels, 8, 1.0, ""), "case_00")
    (tmp_path / "case_00.b2nd").write_bytes(b"nothing")
    answer = Stream([broken], small())[0]
    assert isinstance(answer, UserError)
    assert "case_00" in str(answer)
    assert not isinstance(Stream(cases, small())[0], UserError)
    assert isinstance(Stream(cases, small())[0], Batch)

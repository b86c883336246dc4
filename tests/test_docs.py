"""The documentation and the code say the same: links, names, options, defaults, examples."""

from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
from click.testing import CliRunner
from dense_data import write_labelled
from PIL import Image

from nnunet_dino._environment import VARIABLES
from nnunet_dino.backbones.adapted import RECORD_KEY, AdaptedBackbone, LoraOptions
from nnunet_dino.backbones.catalogue import CATALOGUE, get_spec
from nnunet_dino.cli.main import main
from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.nnunet.discovery.registry import resolve
from nnunet_dino.nnunet.presets import PLANNERS, TRAINERS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SHORT_TRAINERS = sorted((ROOT / "benchmarks" / "short_trainers").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
SOURCES = [file for folder in ("nnunet_dino", "trainers", "planners") for file in sorted((ROOT / folder).rglob("*.py"))]
SET_BY_LAUNCHERS = {"LOCAL_RANK", "RANK", "WORLD_SIZE"}
FULL_LENGTH = [name for name, preset in TRAINERS.items() if preset.num_epochs is None and preset.network]

sys.path.append(str(DOCS))
import generate  # noqa: E402 (a script beside the pages)


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def fences(text: str, language: str) -> list[str]:
    """Returns the content of every fenced block in ``language``."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """Returns a page without its fenced blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def rows(text: str, first_column: str) -> list[list[str]]:
    """Returns the cells of the one table whose first column is headed ``first_column``, code marks removed."""
    tables = [block for block in re.split(r"\n\s*\n", text) if block.startswith(f"| {first_column} |")]
    assert len(tables) == 1, f"{len(tables)} tables start with {first_column}"
    lines = tables[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def anchors(text: str) -> set[str]:
    """Returns the anchors that GitHub makes of headings."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def internal_links(page: Path) -> list[str]:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8")))
    return [target for target in targets if not target.startswith(("https://", "http://"))]


def is_broken(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not (file.is_file() and file.is_relative_to(ROOT)):
        return True
    return bool(anchor) and anchor not in anchors(file.read_text(encoding="utf-8"))


def test_links_inside_the_repository_resolve() -> None:
    links = [(page, target) for page in PAGES for target in internal_links(page)]
    assert len(links) > len(PAGES)
    assert [f"{page_name(page)}: {target}" for page, target in links if is_broken(page, target)] == []


def test_a_broken_link_is_noticed() -> None:
    assert [is_broken(ROOT / "README.md", t) for t in ("LICENSE", "docs/none.md", "#install", "#none", "../x")] == [
        False,
        True,
        False,
        True,
        True,
    ]


def test_every_page_is_linked_from_the_index() -> None:
    index = read("docs/index.md")
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)]+\.md)\)", index)}
    assert {page.resolve() for page in PAGES} - {(DOCS / "index.md").resolve()} <= linked


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_no_page_has_a_path_of_one_machine(page: Path) -> None:
    assert not re.findall(r"/(?:root|work|tmp|opt|home/\w+)/\S*", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_tables_are_those_that_the_code_makes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert generate.generated(text) == text, "run: python docs/generate.py"


def test_a_table_that_is_out_of_date_is_noticed() -> None:
    page = "<!-- table: planners -->\nold\n<!-- end of table -->\n"
    assert "nnUNetPlannerDINOv3LResEncM" in generate.generated(page)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_names_of_trainers_and_planners_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"\bnnUNet(?:Trainer|Planner)(?:Med)?DINOv3[A-Za-z0-9]*(?:_[A-Za-z0-9]+)*", text))
    assert named <= {*TRAINERS, *PLANNERS, *classes_of_examples(), *short_trainers()}


def short_trainers() -> list[str]:
    return [name for file in SHORT_TRAINERS for name in classes_in(file.read_text(encoding="utf-8"))]


def classes_of_examples() -> list[str]:
    return [name for page in PAGES for code in fences(page.read_text(encoding="utf-8"), "python") for name in classes_in(code)]


def classes_in(code: str) -> list[str]:
    return re.findall(r"^class (\w+)", code, re.MULTILINE)


def test_the_readme_names_every_trainer_but_for_the_endings_it_explains() -> None:
    table = {cells[0]: cells[1:] for cells in rows(read("README.md"), "Trainer")}
    bases = {name for name in FULL_LENGTH if not name.endswith(("_LoRA", "_FT", "_TokensOnly", "_Adam1en3", "_Affinities"))}
    assert set(table) == bases
    for name, (backbone, _, licence) in table.items():
        spec = get_spec(resolve(name).dino.backbone)
        assert backbone.endswith(spec.name)
        assert licence.split()[0] in ("none", spec.licence.split()[0]), name


def environment_names() -> set[str]:
    """Returns the variables in the code: what is read from ``os.environ``, and every constant that looks like such a name."""
    found = set()
    for source in SOURCES:
        if source.name == "_environment.py":  # lists them, reads none
            continue
        text = source.read_text(encoding="utf-8")
        found |= set(re.findall(r"os\.environ(?:\.\w+\(|\[)[\"'](\w+)[\"']", text))
        constants = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
        found |= {value for value in constants if re.fullmatch(r"nnUNet_[A-Za-z_]+|(?:XDG|HF)_[A-Z_]+", str(value))}
    return found - SET_BY_LAUNCHERS


def test_the_environment_variables_are_those_in_the_code() -> None:
    sections = read("docs/reference/environment-variables.md").split("\n## ")[1:]
    ours, read_too, others = ([cells[0] for cells in rows(section, "Variable")] for section in sections)
    in_code = environment_names()
    assert set(ours) == set(VARIABLES) == {name for name in in_code if name.startswith("nnUNet_dino")}
    assert set(read_too) <= in_code
    assert in_code <= set(ours) | set(read_too) | set(re.findall(r"\w+", " ".join(others)))


def verbs(group: click.Group = main, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def documented_verbs() -> dict[str, tuple[list[str], set[str]]]:
    """Returns arguments and options of every verb in the reference."""
    found = {}
    for section in re.split(r"^## ", read("docs/reference/commands.md"), flags=re.MULTILINE):
        if section.startswith("nnunet-dino "):
            words = section.splitlines()[0].removeprefix("nnunet-dino ").split()
            table = rows(section, "Option") if "| Option |" in section else []
            options = {option for cells in table for option in re.findall(r"(?<!\w)--?[a-z][\w-]*", cells[0])}
            found[" ".join(w for w in words if w.islower())] = ([w for w in words if w.isupper()], options)
    return found


def test_the_command_reference_is_the_command_line() -> None:
    in_code = {}
    for name, command in verbs():
        arguments = [str(p.name).upper() for p in command.params if isinstance(p, click.Argument)]
        options = {text for p in command.params if isinstance(p, click.Option) for text in (*p.opts, *p.secondary_opts)}
        in_code[name] = (arguments, options)
    assert documented_verbs() == in_code


def command_lines() -> list[tuple[str, list[str]]]:
    """Returns every command in the shell examples, with its page; continued lines joined, redirections left.

    Variables that a page exports and defaults of others are put in.
    """
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        exported = dict(re.findall(r"^export (\w+)=(\S+)", text, re.MULTILINE))
        for block in fences(text, "bash"):
            block = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", block)
            for name, value in exported.items():
                block = re.sub(rf"\${name}\b", lambda _, value=value: value, block)
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.replace("$(nnunet-dino trainers-path)", ""), comments=True)
                while words and re.match(r"\w+=", words[0]):
                    words.pop(0)
                found.append((page_name(page), [word for word in words if word != "&"]))
    return [(page, words) for page, words in found if words]


def test_shell_examples_name_commands_and_options_that_exist() -> None:
    scripts = {entry.name for entry in importlib.metadata.entry_points(group="console_scripts")}
    seen = set()
    for page, words in command_lines():
        program, *arguments = words
        seen.add(program)
        if program == "nnunet-dino":
            parse(arguments, f"{page}: {' '.join(words)}")
        elif program.startswith("nnUNetv2_"):
            assert program in scripts, f"{page}: {program}"
    assert {"nnunet-dino", "nnUNetv2_train", "nnUNetv2_predict", "nnUNetv2_plan_experiment"} <= seen


def parse(arguments: list[str], where: str) -> None:
    """Parses a command line of ``nnunet-dino`` without running it."""
    command, name = main, "nnunet-dino"
    while isinstance(command, click.Group):
        arguments = command.with_verb(arguments) if hasattr(command, "with_verb") else arguments
        name, *arguments = arguments
        assert name in command.commands, where
        command = command.commands[name]
    command.make_context(name, list(arguments))


@pytest.mark.parametrize(
    ("heading", "options", "where"),
    [("Key of `dino`", DinoOptions, "dino"), ("Key of `dino.lora`", LoraOptions, "dino.lora")],
)
def test_plans_keys_and_defaults(heading: str, options: type, where: str) -> None:
    table = {cells[0]: cells[1] for cells in rows(read("docs/reference/plans-keys.md"), heading)}
    fields = {field.name: field.default for field in dataclasses.fields(options)}
    assert list(table) == list(fields), where
    for name, said in table.items():
        default = fields[name]
        if said not in ("required", "see below"):
            value = ast.literal_eval(said.replace("true", "True").replace("false", "False"))
            assert (tuple(value) if isinstance(value, list) else value) == default, name
        else:
            assert default is dataclasses.MISSING, name


def test_the_table_of_backbones_is_the_catalogue() -> None:
    table = {cells[0]: cells[1:] for cells in rows(read("docs/reference/plans-keys.md"), "Name")}
    assert list(table) == list(CATALOGUE)
    for name, (width, parameters, taps, weights) in table.items():
        spec = CATALOGUE[name]
        assert (width, parameters) == (str(spec.embed_dim), f"{spec.num_parameters / 1e6:.1f} M"), name
        assert taps == ", ".join(str(tap) for tap in spec.taps), name
        assert ("untested" in weights) == (not spec.tested), name


def test_the_record_in_checkpoints_has_the_name_in_the_reference() -> None:
    assert f"`slice_encoder.backbone.{RECORD_KEY}`" in read("docs/reference/checkpoints.md")


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")], ids=page_name)
def test_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("nnUNet_dino_weights", "random")
    if page.name == "probe.md":
        extract_features(tmp_path / "chest_features")
        monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
        write_labelled(tmp_path / "preprocessed", "Dataset009_Spleen", num_cases=7)
    for code in fences(page.read_text(encoding="utf-8"), "python"):
        exec(compile(code, page_name(page), "exec"), {"__name__": "example"})


def extract_features(store: Path) -> None:
    """Makes the store that the example reads, of two small images."""
    images = store.with_name("images")
    images.mkdir()
    for seed in (1, 2):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 56), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"image_{seed}.png")
    args = ["extract", str(images), "--backbone", "dinov3_tiny", "--size", "64", "-o", str(store)]
    done = CliRunner().invoke(main, args, standalone_mode=False, catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_nnunet_finds_the_trainer_of_the_example_and_it_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_objects = pytest.importorskip("nnunetv2.utilities.find_objects", reason="nnU-Net 2.8 and later")
    code = fences(read("docs/how-to/lora.md"), "python")[0]
    (name,) = classes_in(code)
    (tmp_path / "my_trainers.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    monkeypatch.setenv("nnUNet_dino_weights", "random")
    trainer = find_objects.recursive_find_trainer_class_by_name(name)
    backbone = trainer.build_network_architecture(PLANS, planned_configuration(), 1, 3, True).slice_encoder.backbone
    assert isinstance(backbone, AdaptedBackbone)
    assert (trainer.__name__, backbone.name, backbone.adaptation) == (name, "dinov3_vits16", "lora")
    ranks = {p.shape[0] for key, p in backbone.named_parameters() if ".lora_A." in key}
    assert ranks == {trainer.dino.lora.rank} == {8}


PLANS = SimpleNamespace(plans={}, foreground_intensity_properties_per_channel={})


def planned_configuration() -> SimpleNamespace:
    """Returns what the builder reads of nnU-Net's ConfigurationManager: two stages of a 2D U-Net for one image channel."""
    arguments = {
        "n_stages": 2,
        "features_per_stage": [4, 6],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3], [3, 3]],
        "strides": [[1, 1], [2, 2]],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "architecture": architecture,
        "normalization_schemes": ["ZScoreNormalization"],
        "spacing": [1.0, 1.0],
        "patch_size": [32, 32],
    }
    return SimpleNamespace(configuration=configuration)

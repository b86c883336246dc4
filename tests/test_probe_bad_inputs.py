"""What is wrong with options, stores, inputs or the machine: one line that names it and says what to do, or a listed input."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner, Result
from probe_inputs import TINY, asymmetric_volume, files_of, write_pictures

from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.cli.main import main
from nnunet_dino.features import open_store
from nnunet_dino.features.items import Item, Unreadable, decoding
from nnunet_dino.features.volume import read_volume

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, "random")


def extract(*words: object, environment: dict[str, str] | None = None) -> Result:
    command = ["extract", *map(str, words), "--backbone", TINY, "--size", "32", "--device", "cpu"]
    return CliRunner().invoke(main, command, env=environment, prog_name="nnunet-dino")


def fails(result: Result, said: str) -> None:
    """Asserts the agreed way of failing, and that the line matches a pattern."""
    assert result.exit_code == 2, result.output
    assert result.stdout == "" and result.stderr.startswith("nnunet-dino: error: ") and result.stderr.count("\n") == 1
    assert re.search(said, result.stderr), result.stderr


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("in") / "pictures"
    write_pictures(folder, 4)
    return folder


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory) -> Path:
    store = tmp_path_factory.mktemp("out") / "store"
    result = extract(pictures, "-o", store, environment={weights.ENVIRONMENT_VARIABLE: "random"})
    assert result.exit_code == 0, result.output
    return store


LONG = "x" * 300


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["-o", ""], {}, "-o: required a folder .* got ''"),
        (["-o", LONG], {}, "-o: .*x{300}: File name too long"),
        (["-o", "FILE"], {}, "-o: required a folder · got .*FILE, which is a file"),
        (["-o", "FILE/below"], {}, "FILE/below"),
        (["-o", "s", "--workers", "0"], {}, "--workers: .* got 0"),
        (["-o", "s", "--workers", "-1"], {}, "--workers: .* got -1"),
        (["-o", "s", "--per-file", "-2"], {}, "--per-file: .* got -2"),
        (["-o", "s"], {"RANK": "2", "WORLD_SIZE": "2"}, "RANK below WORLD_SIZE · got '2' and '2'"),
        (["-o", "s"], {"RANK": "abc"}, "RANK .* got 'abc' and '1'"),
        (["-o", "s"], {"WORLD_SIZE": "-1"}, "WORLD_SIZE.*'-1'"),
    ],
)
def test_wrong_options(pictures, tmp_path, monkeypatch, words, environment, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("kept")
    fails(extract(pictures, *words, environment=environment), said)
    assert files_of(tmp_path) == {"FILE": b"kept"} and not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (b"file,file\na.png,b.png\n", r"list.csv: .* 'file' twice · rename"),
        (b"\xff\xfe\x00\x01", "list.csv"),
        (b"", "list.csv"),
        (b"file\na.png,b,c\n", "list.csv"),
        (f"file\n{LONG}/{LONG}.png\n".encode(), None),
    ],
)
def test_wrong_tables(tmp_path, table, said):
    (tmp_path / "list.csv").write_bytes(table)
    result = extract(tmp_path / "list.csv", "-o", tmp_path / "s")
    if said:
        fails(result, said)
        assert not (tmp_path / "s").exists()
    else:
        assert result.exit_code == 1 and "no such file" in result.stdout


def test_inputs_that_cannot_be_named(pictures, tmp_path):
    fails(extract(tmp_path / LONG / "x.png", "-o", tmp_path / "s"), "files or folders that exist")
    folder = os.fsencode(tmp_path) + b"/in"
    os.mkdir(folder)
    shutil.copy(os.fsencode(pictures / "p000.png"), folder + b"/caf\xe9.png")
    fails(extract(tmp_path / "in", "-o", tmp_path / "s"), r"file names in UTF-8 · got .*caf.udce9\.png.* · rename")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("store.json", b"null", "store.json: .* got null"),
        ("store.json", b"[]", r"store.json: .* got \[\]"),
        ("store.json", b"{", "readable .*store.json"),
        ("store.json", b"[" * 100_000, "readable .*store.json"),
        ("store.json", b"\xff\xfe", "readable .*store.json"),
        ("store.json", {"num_items": "four"}, "num_items = \"four\""),
        ("store.json", {"tokens": None}, "tokens = null"),
        ("store.json", {"tokens": ["colour"]}, "colour"),
        ("store.json", {"items_per_file": 0}, "0 in a file"),
        ("store.json", {"dtype": "int8"}, "int8"),
        ("store.json", {"version": 2}, "version 1 · got version 2"),
        ("store.json", {"extra": 1}, "unknown 'extra'"),
        ("items.csv", None, "items.csv: .*FileNotFoundError"),
        ("items.csv", b"\xff\x00\x01", "items.csv: "),
        ("items.csv", b"a,b\n1,2\n", "items.csv: .*'id'"),
        ("features", b"a file", "features: required a folder"),
        ("features/000000.safetensors", b"half", "readable .*000000.safetensors.* remove it"),
    ],
)  # fmt: skip
def test_damaged_stores_are_not_continued(pictures, finished, tmp_path, name, content, said):
    store = shutil.copytree(finished, tmp_path / "s")
    file = store / name
    if isinstance(content, dict):
        content = json.dumps({**json.loads(file.read_text()), **content}).encode()
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    if content is not None:
        file.write_bytes(content)
    before = files_of(store)
    fails(extract(pictures, "-o", store), said)
    assert files_of(store) == before


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x01", b"a,b\n1,2\n", b"id,path\np000.png,x\n", None])
def test_a_damaged_index_is_not_read(finished, tmp_path, content):
    store = shutil.copytree(finished, tmp_path / "s")
    (store / "index.csv").unlink()
    if content is not None:
        (store / "index.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"index\.csv.* extract` again"):
        open_store(store)


def test_ids_stay_text(tmp_path):
    names = ["NA", "None", "null", "nan", "", "007", "1e5"]
    write_pictures(tmp_path, len(names))
    ids = [name or f"p{number:03d}" for number, name in enumerate(names)]
    for number, name in enumerate(ids):
        (tmp_path / f"p{number:03d}.png").rename(tmp_path / name)
    (tmp_path / "list.csv").write_text("file\n" + "\n".join([*ids, "N/A"]) + "\n")
    assert extract(tmp_path / "list.csv", "-o", tmp_path / "s", "--kind", "images").exit_code == 1, "N/A is not there"
    store = open_store(tmp_path / "s")
    assert store.vectors()[0] == ids
    assert store.failed["id"].tolist() == ["N/A"]


def volume_file(folder: Path, ending: str, *, nan: float | None = None) -> Path:
    values = sitk.GetArrayFromImage(asymmetric_volume()).astype(np.float32)
    if nan is not None:
        values[4, 5, 6] = nan
    file = folder / f"v{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(values), str(file), ending not in (".nii", ".mhd"))
    return file


def cut(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("share", [0.5, 0.98])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_cut_volumes_are_refused(tmp_path, ending, share):
    file = volume_file(tmp_path, ending)
    cut(file, share)
    with pytest.raises(Unreadable, match=r"\w"):
        read_volume(Item("v", str(file)))


def test_volumes_cut_before_they_were_compressed_are_refused(tmp_path):
    file = volume_file(tmp_path, ".nii.gz")
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(content[:-4]))
    with pytest.raises(Unreadable, match=f"cut off: required {len(content)} bytes, has {len(content) - 4}"):
        read_volume(Item("v", str(file)))


def test_a_flipped_bit_is_noticed_by_the_check_sum(tmp_path):
    sitk.WriteImage(sitk.Image([50, 60, 70], sitk.sitkInt16), str(tmp_path / "v.nii"))
    content = bytearray(gzip.compress((tmp_path / "v.nii").read_bytes(), compresslevel=0))
    content[200_000] ^= 1
    (tmp_path / "v.nii.gz").write_bytes(content)
    with pytest.raises(Unreadable, match="damaged or cut off .*CRC"):
        read_volume(Item("v", str(tmp_path / "v.nii.gz")))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha"])
def test_values_that_are_no_numbers_are_refused(tmp_path, ending, value):
    with pytest.raises(Unreadable, match="NaN or infinity · save it again"):
        read_volume(Item("v", str(volume_file(tmp_path, ending, nan=value))))


@pytest.mark.parametrize("order", ["<", ">"])
def test_whole_nifti_files_are_read(tmp_path, order):
    """In both byte orders, compressed in parts, and with something behind the last voxel."""
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    values = np.arange(60, dtype=f"{order}f4").reshape(3, 4, 5)
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(values.dtype)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1, -1, 1, 1]), header), tmp_path / "v.nii")
    content = (tmp_path / "v.nii").read_bytes()
    assert content[:4] == (348).to_bytes(4, "little" if order == "<" else "big")
    (tmp_path / "v.nii").write_bytes(content + b"\xff" * 7)
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    for name in ("v.nii", "v.nii.gz"):
        np.testing.assert_array_equal(read_volume(Item("v", str(tmp_path / name))).values, values.transpose(2, 1, 0))


def test_damaged_volumes_are_listed_with_their_reason(tmp_path):
    good = volume_file(tmp_path, ".nii.gz")
    shutil.copy(good, tmp_path / "w.nii.gz")
    cut(good, 0.5)
    result = extract(tmp_path, "-o", tmp_path / "s")
    assert result.exit_code == 1
    assert re.search(r"v\.nii\.gz: damaged or cut off .* get the file again", result.stdout), result.stdout
    assert open_store(tmp_path / "s").vectors()[0] == ["w.nii.gz"]


@pytest.mark.parametrize("text", ["pool INTERNAL ASSERT FAILED", "can't start new thread", "Too many open files"])
def test_the_machine_is_not_the_image(pictures, tmp_path, monkeypatch, text):
    """An image whose reading failed for want of threads would be missing from the store for no reason of its own."""

    def resize(*_: object, **__: object) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(torch.nn.functional, "interpolate", resize)
    fails(extract(pictures, "-o", tmp_path / "s"), rf"could not read .*p00\d\.png · got {text} · .*--workers")
    assert not list((tmp_path / "s" / "features").iterdir())


def test_what_itk_says_of_another_call_is_not_the_machine():
    with pytest.raises(Unreadable, match="^File cannot be read: x.mha$"), decoding():
        raise RuntimeError("ITK ERROR: MetaImageIO(0x1): File cannot be read: x.mha\nReason: Resource temporarily unavailable")


def test_a_thread_that_cannot_be_started(pictures, tmp_path, monkeypatch):
    import threading

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    fails(extract(pictures, "-o", tmp_path / "s"), "threads · got can't start new thread · .*--workers")


LIMITED = """
import os, resource, sys
from nnunet_dino.cli.main import run
{limit}
sys.argv = ["nnunet-dino", *sys.argv[1:]]
run()
"""


def limited(limit: str, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Runs an extraction in a process that first takes something away from itself."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # -B, as Python would cut its compiled modules off as well
    command = [sys.executable, "-B", "-c", LIMITED.format(limit=limit), "extract", *map(str, words), "--backbone", TINY]
    return subprocess.run([*command, "--size", "32"], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_full_disk(pictures, tmp_path):
    """No file may grow beyond 2,000 bytes: the list of inputs fits, the features do not."""
    done = limited("resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))", tmp_path, pictures, "-o", "s")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert re.search(r"could not save .*000000\.safetensors · got .* · free disk space .* it continues", done.stderr)
    assert list((tmp_path / "s" / "features").iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs the right to become another user")
@pytest.mark.parametrize("closed", ["s", "in", "in/p002.png"])
def test_what_may_not_be_read_or_written(pictures, finished, monkeypatch, closed):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to others
        monkeypatch.chdir(folder)
        shutil.copytree(pictures, "in")
        for name, mode in ((".", 0o755), ("in", 0o755), ("s", 0o777)):
            os.makedirs(name, exist_ok=True)
            os.chmod(name, mode)
        os.chmod(closed, 0)
        os.seteuid(65534)
        try:
            result = extract("in", "-o", "s")
        finally:
            os.seteuid(0)
    if closed == "in/p002.png":
        assert result.exit_code == 1 and re.search(r"p002\.png: .*Permission denied", result.stdout), result.output
    else:
        fails(result, rf"\b{closed}\b.*Permission denied · ")


CLAIM = """
import sys
import tempfile
from pathlib import Path
from nnunet_dino._errors import UserError
from nnunet_dino.features.items import Item
from nnunet_dino.features.store.layout import StoreFacts, begin
store, size, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
items = [Item(f"{size}-{n}" * 50, f"{n}") for n in range(count)]
facts = StoreFacts("images", "tiny", "ab", True, "float32", ("class_token",), False, "float32", {"size_px": size}, count, 9)
print("ready", flush=True)
for number in range(30):
    sys.stdin.readline()
    try:
        begin(Path(f"{store}-{number}"), facts, items)
        print("mine", flush=True)
    except UserError:
        print("refused", flush=True)
"""


@pytest.mark.slow
def test_one_of_two_extractions_that_begin_at_once_gets_the_folder(tmp_path):
    """Thirty starts at the same moment by processes with other sizes and other inputs, and by two with the same."""
    kinds = [(224, 600), (512, 500), (224, 600)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(tmp_path / "s"), str(size), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for size, count in kinds
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    winners = set()
    for number in range(30):
        for process in processes[number % 3 :] + processes[: number % 3]:
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.stdout.readline().strip() for process in processes]
        assert answers in (["mine", "refused", "mine"], ["refused", "mine", "refused"])
        size, count = kinds[answers.index("mine")]
        winners.add(size)
        facts = json.loads((tmp_path / f"s-{number}" / "store.json").read_text())
        lines = (tmp_path / f"s-{number}" / "items.csv").read_text().splitlines()
        assert (facts["preprocessing"]["size_px"], len(lines)) == (size, count + 1)
        assert all(line.startswith(f"{size}-") for line in lines[1:])
    for process in processes:
        process.communicate()
    assert winners, "at least one begins each time"


@pytest.mark.slow
def test_what_killed_runs_left_is_removed(pictures, finished, tmp_path):
    """A process is killed in the middle of saving features; the same command ends with the store of an undisturbed one."""
    kill = """
import nnunet_dino.features.store.units as units, signal
save = units.save_file
def half(tensors, path, metadata):
    open(path, "wb").write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
units.save_file = half
"""
    done = limited(kill, tmp_path, pictures, "-o", "s", "--device", "cpu")
    assert done.returncode == -9, done.stderr
    assert any(content == b"half" for content in files_of(tmp_path / "s").values())
    assert extract(pictures, "-o", tmp_path / "s").exit_code == 0
    assert files_of(tmp_path / "s") == files_of(finished)
    assert not [path for path in (tmp_path / "s").rglob("*") if path.is_dir() and path.name != "features"]

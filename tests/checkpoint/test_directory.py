"""The folder of a run's checkpoints: which is there, which comes first, which goes."""

import json
from pathlib import Path

import pytest

from megatron_octo.checkpoint import directory as layout
from megatron_octo.checkpoint.directory import Fragment, Manifest, TensorEntry
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file
from tests.checkpoint.test_reader import MODEL


def manifest(step: int = 7, files: dict[str, dict[str, object]] | None = None) -> Manifest:
    entry = TensorEntry((4, 2), "F32", (Fragment("f", "x", (0, 0), (2, 2)), Fragment("f", "y", (2, 0), (2, 2), (1, 3))))
    return Manifest(
        model=MODEL,
        step=step,
        precision="bf16",
        tokenizer="xxh3-128:00",
        files=files or {},
        tensors={"weights": {"x": entry}, "exp_avg": {"x": entry}},
        layout={"tensor": 2, "pipeline": 1, "data": 3},
        state={"position": {"epoch": 1, "row": 5}, "scale": 0.1},
        provenance={"run": "/somewhere/über"},
    )


def make(folder: Path, *steps: int, latest: int | None = None) -> None:
    for step in steps:
        path = folder / layout.step_name(step)
        path.mkdir(parents=True)
        (path / "data").write_bytes(b"x" * step)
        record = {"bytes": step, "digest": digest_file(path / "data")}
        layout.write_manifest(path, manifest(step, {"data": record}))
    if latest is not None:
        layout.set_latest(folder, layout.step_name(latest))


def steps(paths: list[Path]) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in paths]


def test_manifest_round_trip(tmp_path: Path) -> None:
    layout.write_manifest(tmp_path, manifest())
    assert layout.read_manifest(tmp_path) == manifest()


def test_any_changed_byte_of_a_manifest_is_found(tmp_path: Path) -> None:
    layout.write_manifest(tmp_path, manifest())
    path = tmp_path / layout.MANIFEST
    data = path.read_bytes()
    silent = []
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            if layout.read_manifest(tmp_path) != manifest():
                silent.append(data[max(0, place - 10) : place + 10])
        except OctoError:
            pass
    assert silent == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "unknown checkpoint format"),
        ('{"format": 3}', "unknown checkpoint format"),
        ('{"format": 1}', "manifest"),
        ('{"format": 2, "tensors": []}', "manifest"),
    ],
)
def test_broken_manifests_are_errors_with_the_path(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / layout.MANIFEST).write_text(content)
    with pytest.raises(OctoError, match=message) as error:
        layout.read_manifest(tmp_path)
    assert error.value.where == tmp_path / layout.MANIFEST


def test_a_manifest_with_a_good_digest_and_bad_content(tmp_path: Path) -> None:
    from megatron_octo.common.files import digest_json

    layout.write_manifest(tmp_path, manifest())
    path = tmp_path / layout.MANIFEST
    for key, value in {"tensors": [], "model": {}, "files": None, "more": 1}.items():
        tree = json.loads(path.read_text())
        tree[key] = value
        tree.pop("digest", None)
        other = tmp_path / key
        other.mkdir()
        (other / layout.MANIFEST).write_text(json.dumps({**tree, "digest": digest_json(tree)}))
        if key == "files":
            continue  # a null is read, and check_files has nothing to compare
        with pytest.raises(OctoError, match="broken checkpoint manifest"):
            layout.read_manifest(other)


def test_candidates(tmp_path: Path) -> None:
    assert layout.candidates(tmp_path / "nowhere") == []
    make(tmp_path, 2, 4, 6, 8)
    assert steps(layout.candidates(tmp_path)) == [8, 6, 4, 2]
    layout.set_latest(tmp_path, "step-00000008")
    assert steps(layout.candidates(tmp_path)) == [8, 6, 4, 2]
    # Rolled back to 4: what lies beyond it was abandoned and comes last.
    layout.set_latest(tmp_path, "step-00000004")
    assert steps(layout.candidates(tmp_path)) == [4, 2, 8, 6]
    layout.set_latest(tmp_path, "step-00000005")  # a name that is not there
    assert steps(layout.candidates(tmp_path)) == [4, 2, 8, 6]
    (tmp_path / layout.LATEST).write_text("nonsense\n")
    assert steps(layout.candidates(tmp_path)) == [8, 6, 4, 2]


def test_directories_of_other_names_are_no_checkpoints(tmp_path: Path) -> None:
    make(tmp_path, 2)
    for name in (".step-00000004.tmp", "step-00000004.bak", "step-4", "notes"):
        (tmp_path / name).mkdir()
        layout.write_manifest(tmp_path / name, manifest())
    assert steps(layout.candidates(tmp_path)) == [2]


def test_prune_keeps_the_newest_and_every_future(tmp_path: Path) -> None:
    make(tmp_path, 1, 2, 3, 4, 9)
    (tmp_path / ".step-00000004.tmp").mkdir()
    (tmp_path / ".step-00000002.removed").mkdir()
    layout.prune(tmp_path, keep=2, step=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [layout.step_name(step) for step in (3, 4, 9)]
    layout.prune(tmp_path, keep=5, step=4)
    assert steps(layout.list_checkpoints(tmp_path)) == [3, 4, 9]


def test_find_checkpoint(tmp_path: Path) -> None:
    make(tmp_path / "run" / layout.CHECKPOINTS, 2, 4, latest=2)
    expected = tmp_path / "run" / layout.CHECKPOINTS / "step-00000002"
    for path in (tmp_path / "run", tmp_path / "run" / layout.CHECKPOINTS, expected):
        assert layout.find_checkpoint(path) == expected
    (expected / layout.MANIFEST).unlink()
    assert layout.find_checkpoint(tmp_path / "run").name == "step-00000004"
    for nothing in (tmp_path, tmp_path / "missing"):
        with pytest.raises(OctoError, match="no checkpoint here"):
            layout.find_checkpoint(nothing)


def test_check_files(tmp_path: Path) -> None:
    make(tmp_path, 5)
    path = tmp_path / layout.step_name(5)
    read = layout.read_manifest(path)
    assert layout.check_files(path, read) == []
    (path / "data").write_bytes(b"xxxxy")
    assert "has changed" in layout.check_files(path, read)[0]
    (path / "data").write_bytes(b"xxxx")
    assert layout.check_files(path, read) == ["data has 4 bytes, expected 5"]
    (path / "data").unlink()
    assert layout.check_files(path, read) == ["data is missing"]
    assert layout.check_files(path, read, []) == []

"""Whether the files of a workspace are what its statements say, and the statements what they say of each other."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from data.ids import canonical_json
from data.provenance import (
    BUILD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    dependencies_of,
    has_run,
    input_indexes,
    parameters_of,
    read_statement,
    signature_in,
    signature_of,
    statement_path,
)
from data.shards import ShardError, ShardIndex, sha256_file, verify_file


def verify_stage(workspace: Path, stage: str) -> list[str]:
    """Everything wrong with one stage's files and statement; empty if all of it holds."""
    path = statement_path(workspace, stage)
    folder = workspace / "artifacts" / stage
    index_file = folder / "index.json"
    missing = [
        f"{file}: {'no file' if file.exists() else 'missing'}" for file in (path, index_file) if not file.is_file()
    ]
    if missing:
        return missing
    try:
        index = ShardIndex.model_validate_json(index_file.read_bytes())
        statement = read_statement(path)
    except ShardError as error:
        return [str(error)]
    except ValueError as error:
        return [f"{index_file}: not an index ({' '.join(str(error).split())[:300]}); bring it back with: syncd run"]
    problems = []
    for item in [*index.shards, *index.files]:
        if not _is_inside(folder, item.name):
            problems.append(f"{index_file}: lists {item.name!r}, which is no file of its folder")
            continue
        try:
            verify_file(folder / item.name, item.bytes, item.sha256)
        except ShardError as error:
            problems.append(str(error))
    listed = {subject["name"]: subject.get("digest", {}).get("sha256") for subject in statement["subject"]}
    present = {f"artifacts/{stage}/index.json": sha256_file(index_file)}
    present |= {f"artifacts/{stage}/{item.name}": item.sha256 for item in [*index.shards, *index.files]}
    for name in sorted(set(listed) | set(present)):
        if listed.get(name) != present.get(name):
            problems.append(
                f"{workspace / name}: index or file says {present.get(name)}, {path} says {listed.get(name)}"
            )
    on_disk = {item.relative_to(workspace).as_posix() for item in folder.rglob("*") if _is_no_folder(item)}
    problems += [f"{workspace / name}: in the folder, but not in {path}" for name in sorted(on_disk - set(listed))]
    problems += _form_problems(path, stage, index, statement)
    expected = signature_of(stage, parameters_of(statement), input_indexes(statement))
    for name, signature in ((index_file, index.signature), (path, signature_in(statement))):
        if signature != expected:
            problems.append(f"{name}: signature {signature}, the parameters and inputs in {path} give {expected}")
    return problems + _verify_dependencies(workspace, path, statement)


def _form_problems(path: Path, stage: str, index: ShardIndex, statement: dict[str, Any]) -> Iterator[str]:
    """What a statement of this stage, as the engine writes it, cannot be."""
    if path.read_bytes() != canonical_json(statement) + b"\n":
        yield f"{path}: not in the canonical form that statements are written in; it was changed by hand"
    fixed = {"_type": STATEMENT_TYPE, "predicateType": PREDICATE_TYPE}
    wrong = [f"{key} {statement.get(key)!r}" for key, value in fixed.items() if statement.get(key) != value]
    build = statement["predicate"]["buildDefinition"]
    of_stage = {
        f"{path}: buildType": (build["buildType"], BUILD_TYPE.format(stage=stage)),
        f"{path}: stage": (build["externalParameters"]["stage"], stage),
        f"{path.parents[1] / stage / 'index.json'}: stage": (index.stage, stage),
    }
    if wrong:
        yield f"{path}: {', '.join(wrong)}; expected {', '.join(fixed.values())}"
    for what, (found, expected) in of_stage.items():
        if found != expected:
            yield f"{what} is {found!r}, expected {expected!r}: it belongs to another stage or was changed"


def _verify_dependencies(workspace: Path, path: Path, statement: dict[str, Any]) -> list[str]:
    problems = []
    for item in dependencies_of(statement):
        if not item["name"].startswith("artifacts/"):
            continue
        target = workspace / item["name"]
        if not _is_inside(workspace, item["name"]):
            problems.append(f"{path}: names {item['name']!r}, which is no file of this workspace")
            continue
        found = sha256_file(target) if target.exists() else "missing"
        named = item.get("digest", {}).get("sha256", "none")
        if found != named:
            problems.append(f"{target}: {found}, but {path} was made from {named}")
    return problems


def _is_inside(folder: Path, name: str) -> bool:
    """Whether a name is below the folder, and what is there, if anything, a file that can be read to an end."""
    parts, target = PurePosixPath(name), folder / name
    return not parts.is_absolute() and ".." not in parts.parts and (target.is_file() or not target.exists())


def _is_no_folder(path: Path) -> bool:
    """Files of any kind, and links to folders."""
    return path.is_symlink() or not path.is_dir()


def verify_chain(workspace: Path, stages: Sequence[str]) -> list[str]:
    """Problems of every stage that has run: changed files, statements and parameters, broken links between stages."""
    return [problem for stage in stages if has_run(workspace, stage) for problem in verify_stage(workspace, stage)]

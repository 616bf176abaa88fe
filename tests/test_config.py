"""Laws of the configuration: a mistake is named by its path, the canonical form is unique, the shipped one works."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from vertfrac.cli import main
from vertfrac.config import (
    AnchorBasedNetwork,
    Archive,
    Config,
    canonical,
    changes,
    lineage,
    owner,
    parse,
    parse_json,
    read_yaml,
    resolve,
)
from vertfrac.config_schema import run_schema, system_schema
from vertfrac.errors import ConfigError

SHIPPED = Path(__file__).parents[1] / "config" / "config.yaml"
RUN_SCHEMA, SYSTEM_SCHEMA = (Draft202012Validator(schema) for schema in (run_schema(), system_schema()))


@pytest.fixture
def raw(tiny_system: dict[str, Any]) -> dict[str, Any]:
    """A complete configuration as plain values."""
    return copy.deepcopy(
        {
            "name": "test",
            "cohort": {"kind": "phantom", "cases": 10},
            "folds": {"k": 5},
            "systems": {"tiny": tiny_system},
        }
    )


def _set(raw: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(raw)
    *parents, last = path.split(".")
    section = changed
    for name in parents:
        section = section.setdefault(name, {})
    section[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("folds.k", -1),
        ("folds.k", 1),
        ("folds.k", "many"),
        ("folds.k", 2.5),
        ("folds.repeats", 0),
        ("cohort.cases", 0),
        ("cohort.kind", "magic"),
        ("shards", 0),
        ("name", "../elsewhere"),
        ("name", ""),
        ("systems", {}),
        ("systems.tiny.localizer.network.widths", ["wide"]),
        ("systems.tiny.localizer.network.widths", []),
        ("systems.tiny.localizer.network.output_stride", 3),
        ("systems.tiny.localizer.network.output_stride", 8),
        ("systems.tiny.detector.network.output_stride", 3),
        ("systems.tiny.localizer.input.spacing_mm", [4, 4]),
        ("systems.tiny.localizer.input.spacing_mm", [4, 4, 0]),
        ("systems.tiny.localizer.input.window_hu", [100, 100]),
        ("systems.tiny.detector.input.window_hu", [850, -250]),
        ("systems.tiny.detector.inference.score", 1.5),
        ("systems.tiny.detector.training.learning_rate", float("nan")),
        ("systems.tiny.detector.training.steps", None),
        ("evaluation.match_iou", -0.1),
    ],
)
def test_a_wrong_value_is_named_by_its_path(raw: dict[str, Any], path: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Config, _set(raw, path, value), "file.yaml")
    assert str(caught.value).startswith("file.yaml: ")
    assert path.removesuffix(".widths").removesuffix(".output_stride") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["surprise", "folds.surprise", "systems.tiny.detector.training.surprise"])
def test_an_unknown_key_is_named_with_its_path(raw: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError, match=rf"file\.yaml: {path}: unknown key"):
        parse(Config, _set(raw, path, 1), "file.yaml")


@pytest.mark.parametrize("path", ["name", "cohort", "systems", "systems.tiny.detector.training.steps"])
def test_a_missing_key_is_named_with_its_path(raw: dict[str, Any], path: str) -> None:
    changed = copy.deepcopy(raw)
    *parents, last = path.split(".")
    section = changed
    for name in parents:
        section = section[name]
    del section[last]
    with pytest.raises(ConfigError, match=path):
        parse(Config, changed, "file.yaml")


def test_several_mistakes_are_counted(raw: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="and 1 more"):
        parse(Config, _set(_set(raw, "shards", 0), "folds.k", -1), "file.yaml")


def test_more_folds_than_cases_are_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"folds\.k is 11, expected at most the 10 cases"):
        parse(Config, _set(raw, "folds.k", 11), "file.yaml")


@pytest.mark.parametrize(
    ("kind", "needs"),
    [
        ("phantom", r"\.cases: Field required"),
        ("nifti", ": expected folder or table, found neither"),
        ("lungcancer500", r"\.annotations: Field required"),
        ("verse", r"\.folder: Field required"),
    ],
)
def test_a_cohort_needs_what_its_kind_needs(raw: dict[str, Any], kind: str, needs: str) -> None:
    with pytest.raises(ConfigError, match=rf"cohort{needs}"):
        parse(Config, _set(raw, "cohort", {"kind": kind}), "file.yaml")


def test_a_configuration_cannot_be_changed(raw: dict[str, Any]) -> None:
    config = parse(Config, raw, "file.yaml")
    with pytest.raises(ValueError, match="frozen"):
        config.folds.k = 3  # type: ignore[misc]  # the mistake


# --- every section and every key


def _paths(value: dict[str, Any], *, leaves: bool, path: str = "") -> list[str]:
    """The paths of all sections in a configuration, or those of all keys that hold no section."""
    found = [] if leaves else [path]
    for key, part in value.items():
        below = f"{path}.{key}" if path else key
        if isinstance(part, dict):
            found += _paths(part, leaves=leaves, path=below)
        elif leaves:
            found.append(below)
    return found


COHORTS: dict[str, dict[str, Any]] = {
    "phantom": {"cases": 10},
    "nifti": {"folder": "x"},
    "lungcancer500": {"annotations": "x", "images": "y"},
    "verse": {"folder": "x"},
}


def _whole(raw: dict[str, Any], kind: str) -> dict[str, Any]:
    """A configuration with all its defaults and every section, its cohorts of one kind."""
    cohort = {"kind": kind, **COHORTS[kind]}
    raw = {**raw, "cohort": cohort, "transfer": {"other": {"cohort": cohort}}}
    return parse(Config, raw, "whole").model_dump(mode="json", exclude={"ancestors"})


@pytest.mark.parametrize("kind", COHORTS)
def test_a_wrong_key_in_any_section_is_named_and_refused_by_the_schema(raw: dict[str, Any], kind: str) -> None:
    whole = _whole(raw, kind)
    named_by_users = {"systems", "foreign", "transfer"}
    sections = set(_paths(whole, leaves=False)) - named_by_users
    assert {"", "folds", "slices", "cohort", "transfer.other.cohort", "evaluation"} < sections
    assert {f"systems.tiny.{stage}.{part}" for stage in STAGES for part in STAGES[stage]} < sections
    for section in sections:
        path = f"{section}.surprise".removeprefix(".")
        wrong = _set(whole, path, 1)
        with pytest.raises(ConfigError, match=rf"^x\.yaml: {re.escape(path)}: unknown key, found 1$"):
            parse(Config, wrong, "x.yaml")
        assert not RUN_SCHEMA.is_valid(wrong), path


STAGES = {
    "localizer": ("input", "network", "augmentation", "loss", "training.schedule", "inference"),
    "detector": ("input", "network", "augmentation", "loss", "training.schedule", "inference", "straighten"),
}


@pytest.mark.parametrize("kind", COHORTS)
def test_a_wrong_type_of_any_key_is_named(raw: dict[str, Any], kind: str) -> None:
    whole = _whole(raw, kind)
    for path in _paths(whole, leaves=True):
        with pytest.raises(ConfigError, match=rf"^x\.yaml: {re.escape(path)}\b.*found "):
            parse(Config, _set(whole, path, {"a": "mapping"}), "x.yaml")


def test_a_wrong_key_in_any_section_of_a_systems_file_is_named_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "systems").mkdir()
    shipped = read_yaml(SHIPPED.parent / "systems" / "vertfrac.yaml")
    for section in _paths(shipped, leaves=False):
        path = f"{section}.surprise".removeprefix(".")
        wrong = _set(shipped, path, 1)
        (tmp_path / "systems" / "mine.yaml").write_text(json.dumps(wrong))
        with pytest.raises(ConfigError, match=rf"mine\.yaml: {re.escape(path)}: unknown key"):
            resolve({"name": "x", "cohort": {"kind": "phantom", "cases": 6}, "systems": ["mine"]}, tmp_path, "x.yaml")
        assert not SYSTEM_SCHEMA.is_valid(wrong), path


# --- the schemas


@pytest.mark.parametrize(("options", "name"), [((), "config"), (("--system",), "system")])
def test_the_documented_schema_is_that_of_the_code(options: tuple[str, ...], name: str) -> None:
    printed = CliRunner().invoke(main, ["config-schema", *options]).output
    assert printed == (SHIPPED.parents[1] / "docs" / f"{name}.schema.json").read_text()


@pytest.mark.parametrize(
    "path",
    sorted(path for path in SHIPPED.parent.rglob("*.yaml") if path.parent.name != "archive"),
    ids=lambda path: path.stem,
)
def test_every_shipped_file_fits_its_schema_and_names_it(path: Path) -> None:
    (SYSTEM_SCHEMA if path.parent.name == "systems" else RUN_SCHEMA).validate(read_yaml(path))
    line = path.read_text().splitlines()[0]
    assert line.startswith("# yaml-language-server: $schema=")
    name = "system" if path.parent.name == "systems" else "config"
    assert (path.parent / line.split("=", 1)[1]).resolve() == SHIPPED.parents[1] / "docs" / f"{name}.schema.json"


def test_a_system_with_a_base_states_only_what_differs(raw: dict[str, Any]) -> None:
    changed = {"localizer": {"training": {"steps": 7}}}
    for systems, fits in (({"base": "tiny", **changed}, True), (changed, False), ({"base": "tiny", "x": 1}, False)):
        assert RUN_SCHEMA.is_valid({**raw, "systems": ["tiny", {"mine": systems}]}) == fits


# --- files


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "\tx: 1"])
def test_bad_yaml_is_refused_by_the_name_of_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.yaml: not valid YAML") as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_yaml_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.yaml"
    path.write_bytes(b"\x1f\x8b\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"image\.yaml"):
        read_yaml(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        read_yaml(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("raw", [None, [], "text", 3])
def test_a_configuration_is_a_mapping(tmp_path: Path, raw: Any) -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml: expected a mapping"):
        resolve(raw, tmp_path, "x.yaml")


def test_an_unknown_system_lists_the_known_ones(tmp_path: Path, raw: dict[str, Any]) -> None:
    (tmp_path / "systems").mkdir()
    for name in ("alpha", "beta"):
        (tmp_path / "systems" / f"{name}.yaml").write_text("{}")
    with pytest.raises(ConfigError, match="unknown system 'gamma', expected one of alpha, beta, pisov2020,"):
        resolve({**raw, "systems": ["gamma"]}, tmp_path, "x.yaml")


def test_a_mistake_in_a_systems_file_names_that_file(tmp_path: Path, raw: dict[str, Any]) -> None:
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems" / "alpha.yaml").write_text(
        json.dumps(_set(raw["systems"]["tiny"], "detector.straighten.width_mm", -1))
    )
    with pytest.raises(ConfigError, match=r"alpha\.yaml: detector\.straighten\.width_mm"):
        resolve({**raw, "systems": ["alpha"]}, tmp_path, "x.yaml")


def test_a_named_system_equals_the_spelled_out_one(tmp_path: Path, raw: dict[str, Any]) -> None:
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems" / "tiny.yaml").write_text(json.dumps(raw["systems"]["tiny"]))
    assert resolve({**raw, "systems": ["tiny"]}, tmp_path, "x") == resolve(raw, tmp_path, "x")


def test_systems_beside_the_configuration_go_before_those_that_come_with_vertfrac(
    tmp_path: Path, raw: dict[str, Any]
) -> None:
    shipped = resolve({**raw, "systems": ["vertfrac"]}, tmp_path, "x").systems["vertfrac"]
    assert shipped == resolve({**raw, "systems": ["vertfrac"]}, SHIPPED.parent, "x").systems["vertfrac"]
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems" / "vertfrac.yaml").write_text(json.dumps(raw["systems"]["tiny"]))
    own = resolve({**raw, "systems": ["vertfrac"]}, tmp_path, "x").systems["vertfrac"]
    assert own == resolve(raw, tmp_path, "x").systems["tiny"] != shipped


def test_the_shipped_configuration_is_valid() -> None:
    config = resolve(read_yaml(SHIPPED), SHIPPED.parent, str(SHIPPED))
    assert "vertfrac" in config.systems


@pytest.mark.parametrize("path", sorted((SHIPPED.parent / "systems").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_system_is_valid(path: Path) -> None:
    cohort = {"kind": "phantom", "cases": 6}
    resolve({"name": "x", "cohort": cohort, "systems": [path.stem]}, SHIPPED.parent, "x.yaml")


@pytest.mark.parametrize("path", sorted(SHIPPED.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    resolve(read_yaml(path), SHIPPED.parent, str(path))


def test_the_shipped_archive_is_valid() -> None:
    path = SHIPPED.parent / "archive" / "example.yaml"
    assert parse(Archive, read_yaml(path), str(path)).pictures is False


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shards": "many"}, "shards: Input should be a valid integer.*found 'many'"),
        ({"shards": 0}, "shards: Input should be greater than or equal to 1, found 0"),
        ({"shrads": 3}, "shrads: unknown key, found 3"),
        ({"out": "data/out"}, "out is data/out, expected a folder outside of scans, data"),
    ],
)
def test_a_wrong_archive_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(Archive, {"scans": "data", "model": "model", "out": "out", **wrong}, "x.yaml")


# --- the canonical form


def _backwards(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _backwards(value[key]) for key in reversed(value)}
    return value


def test_the_canonical_form_does_not_depend_on_the_order_of_keys(raw: dict[str, Any]) -> None:
    assert canonical(parse(Config, raw, "a")) == canonical(parse(Config, _backwards(raw), "b"))


def test_the_canonical_form_does_not_depend_on_spelled_out_defaults(raw: dict[str, Any]) -> None:
    assert canonical(parse(Config, _set(raw, "shards", 2), "a")) == canonical(parse(Config, raw, "b"))


@pytest.mark.parametrize(("path", "value"), [("folds.k", 4), ("systems.tiny.detector.straighten.width_mm", 65)])
def test_another_value_has_another_canonical_form(raw: dict[str, Any], path: str, value: Any) -> None:
    assert canonical(parse(Config, _set(raw, path, value), "a")) != canonical(parse(Config, raw, "b"))


def test_whole_and_decimal_numbers_are_the_same_value(raw: dict[str, Any]) -> None:
    path = "systems.tiny.detector.straighten.width_mm"
    assert canonical(parse(Config, _set(raw, path, 64), "a")) == canonical(parse(Config, _set(raw, path, 64.0), "b"))


def test_the_canonical_form_is_read_back_as_the_same_value(raw: dict[str, Any]) -> None:
    config = parse(Config, raw, "a")
    assert parse_json(Config, canonical(config), "b") == config


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(ConfigError, match="--settings: not valid JSON"):
        parse_json(Config, "{", "--settings")


# --- systems based on others


def _family(raw: dict[str, Any], tmp_path: Path, systems: list[Any]) -> Config:
    (tmp_path / "systems").mkdir(exist_ok=True)
    (tmp_path / "systems" / "alpha.yaml").write_text(json.dumps(raw["systems"]["tiny"]))
    (tmp_path / "systems" / "beta.yaml").write_text('{"base": "alpha", "detector": {"inference": {"nms": "box"}}}')
    return resolve({**raw, "systems": systems}, tmp_path, "x.yaml")


def test_a_system_takes_what_it_does_not_say_from_its_base(tmp_path: Path, raw: dict[str, Any]) -> None:
    config = _family(raw, tmp_path, ["beta", {"gamma": {"base": "beta", "localizer": {"loss": {"limits_weight": 3}}}}])
    assert list(config.systems) == ["beta", "gamma"]
    assert list(config.ancestors) == ["alpha"]
    alpha, beta, gamma = config.ancestors["alpha"], config.systems["beta"], config.systems["gamma"]
    assert beta.localizer == alpha.localizer
    assert beta.detector.training == alpha.detector.training
    assert (alpha.detector.inference.nms, beta.detector.inference.nms) == ("butterfly", "box")
    assert gamma.detector == beta.detector
    assert changes(config, "gamma") == {"localizer.loss.limits_weight": (1.0, 3.0)}
    assert changes(config, "beta") == {"detector.inference.nms": ("butterfly", "box")}
    assert lineage(config, "gamma") == ["gamma", "beta", "alpha"]


def test_what_is_equal_to_the_base_is_kept_under_the_name_of_the_base(tmp_path: Path, raw: dict[str, Any]) -> None:
    config = _family(raw, tmp_path, ["beta", {"gamma": {"base": "beta", "localizer": {"loss": {"limits_weight": 3}}}}])
    assert owner(config, "gamma", lambda system: canonical(system.localizer)) == "gamma"
    assert owner(config, "gamma", lambda system: canonical(system.detector)) == "beta"
    assert owner(config, "gamma", lambda system: canonical(system.detector.training)) == "alpha"
    assert owner(config, "beta", lambda system: canonical(system.localizer)) == "alpha"


def test_another_kind_of_network_takes_nothing_from_the_base(tmp_path: Path, raw: dict[str, Any]) -> None:
    network = {"kind": "anchor_based", "widths": [4, 8]}
    config = _family(raw, tmp_path, [{"boxes": {"base": "alpha", "detector": {"network": network}}}])
    assert config.systems["boxes"].detector.network == AnchorBasedNetwork.model_validate(network)
    assert config.systems["boxes"].detector.training == config.ancestors["alpha"].detector.training


def test_a_return_to_an_earlier_value_is_its_own_result(tmp_path: Path, raw: dict[str, Any]) -> None:
    back = {"base": "beta", "detector": {"inference": {"nms": "butterfly"}}}
    config = _family(raw, tmp_path, ["beta", {"back": back}])
    assert owner(config, "back", lambda system: canonical(system.detector)) == "back"


@pytest.mark.parametrize(
    ("systems", "words"),
    [
        ([{"a": {"base": "b"}}, {"b": {"base": "a"}}], "a -> b -> a is based on itself"),
        ([{"a": {"base": "nobody"}}], "unknown system 'nobody'"),
        (["alpha", "alpha"], "'alpha' is listed twice"),
        ([{"a": {"base": "alpha", "detector": {"inference": {"nms": "oval"}}}}], "systems.a: detector.inference.nms"),
        ([{"a": {"base": "alpha", "surprise": 1}}], "systems.a: surprise: unknown key"),
    ],
)
def test_a_wrong_family_is_told_in_one_line(
    tmp_path: Path, raw: dict[str, Any], systems: list[Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as error:
        _family(raw, tmp_path, systems)
    assert "\n" not in str(error.value)


def test_anchor_boxes_have_no_error_of_heights_in_pixels(tmp_path: Path, raw: dict[str, Any]) -> None:
    detector = {
        "network": {"kind": "anchor_based", "widths": [2, 3], "output_stride": 1, "skip": "add"},
        "loss": {"height_weight": 0.5},
    }
    system = json.loads(json.dumps(raw["systems"]["tiny"]))
    system["detector"] |= detector
    with pytest.raises(ConfigError, match=r"height_weight needs an anchor_free network"):
        resolve({**raw, "systems": {"a": system}}, tmp_path, "x.yaml")

"""The recipe: what it refuses, in which words, before any work."""

from __future__ import annotations

import copy

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mixtura import recipe_file
from mixtura.errors import InputError, RecipeError
from mixtura.recipe import Recipe

GOOD = {
    "name": "x",
    "sources": {"web": {"files": "a.jsonl"}},
    "target": {"files": "t.jsonl"},
    "select": [{"selector": "nudge", "pick": {"budget_rows": 3}}],
}


def changed(path: str, value: object) -> dict:
    tree = copy.deepcopy(GOOD)
    here = tree
    *parents, last = path.split(".")
    for part in parents:
        here = here[int(part)] if isinstance(here, list) else here.setdefault(part, {})
    here[last] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("sources.web.fils", "a", "sources.web.fils is not a key here; expected one of files, format"),
        ("sources.web.fils", "a", "Nearest: 'files'"),
        ("seed", "seven", "seed must be a valid integer"),
        ("seed", -1, "seed must be greater than or equal to 0; got -1"),
        ("nmae", "x", "Nearest: 'name'"),
        ("select.0.selector", "nugde", "select.0.selector must be one of"),
        ("select.0.selector", "nugde", "Nearest: 'nudge'"),
        ("select.0.options", {"epsilo": 1}, "select.0.options.epsilo is not a key here"),
        ("select.0.pick", {}, "select.0.pick must give budget_rows or budget_tokens"),
        ("select.0.pick", {"budget_rows": 1, "budget_tokens": 1}, "not both"),
        ("select.0.pick", {"rule": "threshold"}, "must give threshold when rule is 'threshold'"),
        ("select.0.pick", {"budget_rows": 3, "rule": "gumbel"}, "its score is a rank, not a weight"),
        ("select.0.pick.rule", "best", "'round_robin' or 'threshold'; got 'best'"),
        ("select.0.sources", ["wbe"], "select.nudge.sources must name known ones of ['web']; got ['wbe']"),
        ("mix", {"weights": {"other": 1}}, "mix.weights must name known ones"),
        ("mix.splits", {"validation": 0.6, "test": 0.4}, "must leave a share for training"),
        ("sources.web.format", "jsnol", "Nearest: 'jsonl'"),
        ("sources.web.columns", {"text": "a", "prompt": "b", "completion": "c"}, "not both"),
        ("sources.web.max_quarantine", 5, "sources.web.max_quarantine must be less than or equal to 1; got 5"),
        ("train", {"model": {"width": 30, "heads": 4}}, "width must be a multiple of heads"),
        ("name", "../x", "name must match pattern"),
    ],
)
def test_a_mistake_is_named_with_its_path_and_what_was_expected(path, value, said):
    with pytest.raises(RecipeError) as error:
        recipe_file.build(changed(path, value))
    assert said in str(error.value)
    assert error.value.exit_code == 2


def test_a_selector_that_needs_a_target_says_so():
    tree = {k: v for k, v in GOOD.items() if k != "target"}
    with pytest.raises(RecipeError, match=r"target is needed by selector 'nudge'\. Add a target\."):
        recipe_file.build(tree)


def test_the_first_mistake_is_told_and_the_others_counted():
    tree = changed("sources.web.fils", "a") | {"seed": "x", "bogus": 1}
    with pytest.raises(RecipeError, match="more mistake"):
        recipe_file.build(tree)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "must be valid YAML"),
        ("name: x\nname: y", "key 'name' is given twice"),
        ("- x", "must be a mapping of keys"),
        ("", "must be a mapping of keys"),
        ("a: &a [*a]", "must not expand its aliases without end"),
        ("!!python/object/apply:os.system ['true']", "must be valid YAML"),
        ("[" * 5000, "must"),
        ("a: &a [x, x, x, x, x, x, x, x, x, x]\n"
         + "".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 10)}]\n" for p, c in zip("abcdefg", "bcdefgh", strict=True)),
         "must not expand its aliases without end"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_recipe_is_one_sentence(text, said):
    with pytest.raises(InputError) as error:
        recipe_file.parse(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_and_a_huge_file(tmp_path):
    with pytest.raises(InputError, match="must be a readable file"):
        recipe_file.load(tmp_path / "no.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * (recipe_file.MAX_BYTES + 1))
    with pytest.raises(InputError, match="must be at most"):
        recipe_file.load(tmp_path / "big.yaml")


def test_the_resolved_recipe_reads_back_equal():
    recipe = recipe_file.build(GOOD)
    again = recipe_file.parse(recipe_file.resolved_yaml(recipe))
    assert again == recipe
    assert again.fingerprint() == recipe.fingerprint()


@given(st.integers(0, 2**63 - 1), st.integers(1, 10**9), st.sampled_from(["uniform", "nearest", "dsir", "nudge"]))
def test_any_valid_recipe_reads_back_equal(seed, budget, selector):
    tree = GOOD | {"seed": seed, "select": [{"selector": selector, "pick": {"budget_tokens": budget}}]}
    recipe = recipe_file.build(tree)
    assert recipe_file.parse(recipe_file.resolved_yaml(recipe)) == recipe


def test_a_fingerprint_changes_with_any_value():
    changes = [("name", "x"), ("seed", 1), ("clean.min_chars", 2), ("select.0.pick.budget_rows", 4)]
    prints = {recipe_file.build(changed(p, v)).fingerprint() for p, v in changes}
    assert len(prints) == 4


def test_the_schema_accepts_what_the_models_accept_and_refuses_what_they_refuse():
    schema = recipe_file.schema()
    validator = jsonschema.Draft202012Validator(schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert validator.is_valid(GOOD)
    for path, value in [
        ("nmae", 1),
        ("seed", "x"),
        ("select.0.selector", "nugde"),
        ("select.0.options", {"epsilo": 1}),
    ]:
        assert not validator.is_valid(changed(path, value)), path


def test_every_field_is_described():
    """The form in the Prefect UI and the editor show these; only self-evident names may lack one."""
    schema = Recipe.model_json_schema()
    bare = [
        f"{name}.{key}"
        for name, model in schema["$defs"].items()
        for key, field in model.get("properties", {}).items()
        if "description" not in field
    ]
    assert len(bare) <= 6, bare


def test_environment_variables_only_where_declared(monkeypatch):
    recipe = recipe_file.build(GOOD | {"env": ["MIXTURA_TEST_DATA"]})
    monkeypatch.delenv("MIXTURA_TEST_DATA", raising=False)
    with pytest.raises(RecipeError, match="must name variables that are set"):
        recipe_file.environment(recipe)
    monkeypatch.setenv("MIXTURA_TEST_DATA", "/somewhere/secret")
    assert recipe_file.environment(recipe) == {"MIXTURA_TEST_DATA": "/somewhere/secret"}
    assert "/somewhere/secret" not in recipe_file.resolved_yaml(recipe)


def test_yaml_of_a_recipe_is_what_a_person_writes():
    text = yaml.safe_dump(GOOD)
    assert recipe_file.parse(text) == recipe_file.build(GOOD)


def test_rule_got_d_is_the_papers_score_unless_an_option_says_otherwise():
    def phrasing(pick: dict, options: dict) -> float:
        tree = changed("select", [{"selector": "nudge", "options": options, "pick": {"budget_rows": 3} | pick}])
        return recipe_file.spec_of(recipe_file.build(tree).select[0]).phrasing  # type: ignore[attr-defined]

    assert phrasing({"rule": "got-d"}, {}) == 0
    assert phrasing({"rule": "got-d"}, {"phrasing": 2}) == 2
    assert phrasing({"rule": "top"}, {}) == phrasing({}, {}) == 1
    with pytest.raises(RecipeError, match="can be 'got-d' only with a selector that is nudge; got 'dsir'"):
        recipe_file.build(changed("select", [{"selector": "dsir", "pick": {"budget_rows": 3, "rule": "got-d"}}]))

"""What a recipe may read: files as it names them, and nothing outside."""

import os
from pathlib import Path

import fsspec
import pytest

from mixtura.errors import InputError
from mixtura.pipeline.locate import Where, locate, resolve_output, survey
from mixtura.recipe import Source

ROW = '{"text": "a"}\n'


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "recipe"
    for name in ("a.jsonl", "sub/b.jsonl", "sub/deep/c.jsonl.gz", "sub/notes.md", "sub/x.zip", "sub/.hidden.jsonl"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ROW)
    (tmp_path / "outside.jsonl").write_text(ROW)
    return folder


def names(files, base, **spec):
    return [f.name for f in locate("s", Source(files=files, **spec), Where(base))]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("a.jsonl", ["a.jsonl"]),
        ("./sub/../a.jsonl", None),
        ("*.jsonl", ["a.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "sub/b.jsonl"]),
        ("sub", ["sub/b.jsonl", "sub/deep/c.jsonl.gz", "sub/notes.md"]),
        ("sub/*", ["sub/b.jsonl", "sub/deep/c.jsonl.gz", "sub/notes.md"]),
        ("sub/[a-c].jsonl", ["sub/b.jsonl"]),
        (["sub/b.jsonl", "a.jsonl", "*.jsonl"], ["a.jsonl", "sub/b.jsonl"]),
    ],
)
def test_patterns_lead_to_names_relative_to_the_recipe(base, files, expected):
    if expected is None:
        with pytest.raises(InputError, match="must not climb"):
            names(files, base)
    else:
        assert names(files, base) == expected


def test_a_folder_lists_what_it_ignored(base):
    (base / "sub/README.md").write_text("about")
    found = survey("s", Source(files="sub"), Where(base))
    assert found.ignored == ["sub/README.md", "sub/x.zip"]
    assert found.files[0].bytes == len(ROW)


def test_a_format_takes_every_file_of_a_folder(base):
    assert names("sub", base, format="jsonl") == ["sub/b.jsonl", "sub/deep/c.jsonl.gz", "sub/notes.md", "sub/x.zip"]


@pytest.mark.parametrize("files", ["../outside.jsonl", "sub/../../outside.jsonl", "{tmp}/outside.jsonl", "/etc/passwd"])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_nothing_outside_is_read(base, files, scheme):
    with pytest.raises(InputError, match=r"sources\.s\.files must (lie inside|not climb)") as e:
        names(scheme + files.format(tmp=base.parent), base)
    assert e.value.exit_code == 2


def test_globs_outside_are_refused_before_a_folder_is_listed(base):
    with pytest.raises(InputError, match="must lie inside"):
        names("/etc/*.conf", base)


@pytest.mark.parametrize("pattern", ["link.jsonl", "*.jsonl", "linked", "linked/*.jsonl", "**/*.jsonl"])
def test_a_symbolic_link_out_is_refused(base, pattern):
    outside = base.parent / "secret"
    outside.mkdir()
    (outside / "s.jsonl").write_text(ROW)
    (base / "link.jsonl").symlink_to(outside / "s.jsonl")
    (base / "linked").symlink_to(outside)
    with pytest.raises(InputError, match=r"symbolic link|must lie inside"):
        names(pattern, base)


def test_a_link_inside_is_fine_and_a_loop_ends(base):
    (base / "again.jsonl").symlink_to(base / "a.jsonl")
    (base / "sub/loop").symlink_to(base)
    assert names("**/*.jsonl", base) == ["a.jsonl", "again.jsonl", "sub/b.jsonl"]


@pytest.mark.parametrize(
    "url", ["zip://x::file:///etc/passwd", "local:///etc/passwd", "simplecache::s3://b/k", "reference://x", "git://x"]
)
def test_chains_and_aliases_do_not_lead_around_the_rule(base, url):
    with pytest.raises(InputError):
        names(url, base)


def test_a_declared_variable_names_a_folder_and_stays_in_the_name(base, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "d.jsonl").write_text(ROW)
    where = Where(base, {"DATA": str(data)})
    (file,) = locate("s", Source(files="${DATA}/*.jsonl"), where)
    assert (file.name, file.url) == ("${DATA}/d.jsonl", str(data / "d.jsonl"))
    with pytest.raises(InputError, match=r"that the recipe's env declares and that are set; got '\$\{HOME\}'"):
        locate("s", Source(files="${HOME}/x.jsonl"), where)
    with pytest.raises(InputError, match="must not climb"):
        locate("s", Source(files="${DATA}/../outside.jsonl"), where)


def test_a_root_of_the_operator_may_be_read(base):
    outside = base.parent / "outside.jsonl"
    (file,) = locate("s", Source(files=str(outside)), Where(base, roots=(base.parent,)))
    assert file.url == str(outside)


def test_a_missing_file_names_the_nearest(base):
    with pytest.raises(InputError, match=r"must match at least one file; got 'a\.json'\. Nearest: 'a\.jsonl'"):
        names("a.json", base)


@pytest.mark.parametrize(("name", "advice"), [("m.pkl", "can run code"), ("m.zip", "Unpack"), ("m.xyz", "Set format")])
def test_an_unknown_ending_named_outright_is_an_error(base, name, advice):
    (base / name).write_bytes(b"x")
    with pytest.raises(InputError, match=advice):
        names(name, base)


def test_a_fifo_is_no_file(base):
    os.mkfifo(base / "pipe.jsonl")
    with pytest.raises(InputError, match="regular file"):
        names("pipe.jsonl", base)


def test_urls_go_through_fsspec():
    fs = fsspec.filesystem("memory")
    fs.pipe({"/bucket/a.jsonl": b"{}", "/bucket/deep/b.jsonl": b"{}", "/bucket/c.bin": b""})
    where = Where(Path("/nowhere"), {"BUCKET": "memory://bucket"})
    assert [f.url for f in locate("s", Source(files="memory://bucket/*.jsonl"), where)] == ["memory:///bucket/a.jsonl"]
    found = locate("s", Source(files="memory://bucket"), where)
    assert [f.bytes for f in found] == [2, 2]
    (file,) = locate("s", Source(files="${BUCKET}/a.jsonl"), where)
    assert file.name == "${BUCKET}/a.jsonl"
    with pytest.raises(InputError, match="must match at least one file"):
        locate("s", Source(files="memory://bucket/none.jsonl"), where)


def test_output_lies_inside_the_recipe_or_the_roots(base, tmp_path):
    assert resolve_output("mixtures/x", Where(base)) == base / "mixtures/x"
    for folder in ("../x", "/tmp/x", str(tmp_path / "x"), "s3://bucket/x"):
        with pytest.raises(InputError, match=r"output\.folder"):
            resolve_output(folder, Where(base))
    assert resolve_output(str(tmp_path / "x"), Where(base, roots=(tmp_path,))) == tmp_path / "x"
    (base / "out").symlink_to(tmp_path)
    with pytest.raises(InputError, match=r"output\.folder"):
        resolve_output("out/x", Where(base))

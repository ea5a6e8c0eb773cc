"""The formats against the programs that define them: git-annex and git."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from riafs.errors import MalformedKey
from riafs.formats.annex import hash_lower, hash_mixed, parse_pointer
from riafs.formats.gitobjects import parse_commit, parse_tag, parse_tree
from riafs.formats.gitrepository import parse_config_list, parse_packed_refs, submodules, valid_ref_name
from riafs.formats.keys import parse_key
from riafs.formats.specialremotes import encrypted_key, parse_remote_log, shared_cipher

KEYS = [
    b"MD5E-s6--b1946ac92492d2347c6235b4d2611184.txt",
    b"MD5E-s007--x",
    b"MD5E-s3000000-S1048576-C2--7fc56270e7a70fa81a5935b72eacbe29.dat",
    b"MD5E-s3-S5--x",
    b"URL-s12--http://example.org/a%20b?x=1&y=2",
    b"WORM-s42-m1700000000--dir%name,32with.txt",
    b"SHA256E-s1--x.\xff\xfe",
    b"lower-case is allowed--x".replace(b" ", b"_").replace(b"-case", b"_case"),
    b"MD5E-s3--",
    b"MD5E--x." + b"y" * 63,
    b"GITBUNDLE--x." + b"y" * 64,
]
NO_KEYS = [b"MD5E-m3-s3--x", b"MD5E-s-3--x", b"MD5E-s3", b"MD5E--x." + b"y" * 64, b"UNKNOWNE--x." + b"y" * 64]


class Repository:
    """A git repository in a directory of its own, untouched by the user's configuration."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(path),
            "GIT_CONFIG_NOSYSTEM": "1",
            "LC_ALL": "C.UTF-8",
            **{f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
            "GIT_COMMITTER_DATE": "1700000000 +0100",
        }
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str | bytes, stdin: bytes = b"") -> bytes:
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=self._environment, input=stdin, capture_output=True, check=True
        )
        return done.stdout

    def accepts(self, *arguments: str | bytes, stdin: bytes = b"") -> bool:
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=self._environment, input=stdin, capture_output=True, check=False
        )
        return done.returncode == 0


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


@pytest.fixture(scope="module")
def annex(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    if shutil.which("git-annex") is None:
        pytest.skip("git-annex is not in PATH")
    repository = Repository(tmp_path_factory.mktemp("annex"))
    repository.git("annex", "init", "-q")
    yield repository
    if shutil.which("gpgconf") is not None:
        subprocess.run(["gpgconf", "--homedir", repository.path / ".gnupg", "--kill", "all"], check=True)
    for directory, _, _ in os.walk(repository.path):
        Path(directory).chmod(0o755)


def test_keys_and_hash_directories_are_those_of_git_annex(annex: Repository) -> None:
    form = "--format=${key}\\t${hashdirlower}\\t${hashdirmixed}\\n"
    output = annex.git("annex", "examinekey", "--batch", form, stdin=b"".join(key + b"\n" for key in KEYS))
    for text, line in zip(KEYS, output.splitlines(), strict=True):
        key = parse_key(text)
        whole = key.unchunked().serialised
        assert line == b"%b\t%b/\t%b/" % (key.serialised, hash_lower(whole), hash_mixed(whole))


@pytest.mark.parametrize("text", NO_KEYS)
def test_what_git_annex_refuses_as_a_key_is_refused(annex: Repository, text: bytes) -> None:
    assert not annex.accepts("annex", "examinekey", "--batch", "--format=x", stdin=text + b"\n")
    with pytest.raises(MalformedKey):
        parse_key(text)


def test_locked_and_unlocked_files_point_at_their_keys(annex: Repository) -> None:
    (annex.path / "sub").mkdir()
    (annex.path / "sub" / "a&b%c:d.txt").write_bytes(b"hello\n")
    (annex.path / "unlocked").write_bytes(b"hello\n")
    annex.git("annex", "add", "-q", "--backend=WORM", "sub")
    annex.git("-c", "annex.addunlocked=true", "annex", "add", "-q", "--backend=MD5E", "unlocked")
    for path in ("sub/a&b%c:d.txt", "unlocked"):
        key = parse_pointer(annex.git("cat-file", "blob", f":{path}"))
        assert key is not None
        assert key.size == 6
        assert key.serialised == annex.git("annex", "lookupkey", path).strip()


def test_a_shared_encrypted_remote_names_objects_as_computed(annex: Repository, tmp_path: Path) -> None:
    if shutil.which("gpg") is None:
        pytest.skip("gpg is not in PATH")
    (annex.path / "f").write_bytes(b"x" * 3000)
    annex.git("annex", "add", "-q", "f")
    annex.git(
        "annex",
        "initremote",
        "my store",
        "type=directory",
        f"directory={tmp_path}",
        "encryption=shared",
        "chunk=1kB",
        "-q",
    )
    annex.git("annex", "copy", "-q", "--to", "my store", "f")
    annex.git("annex", "merge", "-q")
    (remote,) = parse_remote_log(annex.git("cat-file", "blob", "git-annex:remote.log"))
    assert (remote.name, remote.type, remote.encryption, remote.chunk_size) == (
        b"my store",
        b"directory",
        b"shared",
        1000,
    )
    assert remote.cipher is not None
    mac_key = shared_cipher(remote.cipher).mac_key
    key = parse_key(annex.git("annex", "lookupkey", "f").strip())
    expected = {encrypted_key(mac_key, remote.mac, key.chunk(1000, number)).file_name for number in (1, 2, 3)}
    stored = {os.fsencode(name) for _, _, names in os.walk(tmp_path) for name in names}
    assert expected <= stored
    for directory, _, _ in os.walk(tmp_path):
        Path(directory).chmod(0o755)


def test_trees_commits_tags_and_packed_refs_of_git_are_read(repository: Repository) -> None:
    (repository.path / "dir").mkdir()
    (repository.path / "dir" / "x").write_bytes(b"x")
    (repository.path / "run").write_bytes(b"#!")
    (repository.path / "run").chmod(0o755)
    (repository.path / "link").symlink_to("run")
    Path(os.fsdecode(os.fsencode(repository.path) + b"/\xff\n")).write_bytes(b"y")
    repository.git("add", ".")
    repository.git("commit", "-qm", "message")
    repository.git("tag", "-m", "tag", "v1")
    repository.git("pack-refs", "--all")
    tree = parse_tree(repository.git("cat-file", "tree", "HEAD^{tree}"))
    rows = zip(tree.modes, tree.oids, tree.names, strict=True)
    read = [(b"%06o" % mode, oid.hex().encode(), name) for mode, oid, name in rows]
    listed = [entry.split(b"\t", 1) for entry in repository.git("ls-tree", "-z", "HEAD").split(b"\0")[:-1]]
    assert read == [(head.split()[0], head.split()[2], name) for head, name in listed]
    commit = parse_commit(repository.git("cat-file", "commit", "HEAD"))
    assert (commit.tree, commit.time, commit.parents) == (
        repository.git("rev-parse", "HEAD^{tree}").strip(),
        1700000000,
        (),
    )
    assert parse_tag(repository.git("cat-file", "tag", "v1")).object == repository.git("rev-parse", "HEAD").strip()
    refs = parse_packed_refs((repository.path / ".git" / "packed-refs").read_bytes())
    assert refs == {
        b"refs/heads/main": repository.git("rev-parse", "HEAD").strip(),
        b"refs/tags/v1": repository.git("rev-parse", "v1").strip(),
    }


def test_submodules_are_read_as_git_lists_them(repository: Repository) -> None:
    text = b'[Submodule "A.b"]\n\tpath = "in puts/x" # comment\n\tDatalad-ID = 7fa1\n\turl = a\\\nb\n'
    text += b'[submodule "..\\"q"]\n\tpath = ../x\n'
    (repository.path / "modules").write_bytes(text)
    found = submodules(parse_config_list(repository.git("config", "-z", "--list", "--file", "modules")))
    assert list(found) == [b"in puts/x"]
    assert (found[b"in puts/x"].url, found[b"in puts/x"].datalad_id) == (b"ab", b"7fa1")


@pytest.mark.parametrize(
    "name",
    [
        b"a",
        b"a/b",
        b"a..b",
        b".a",
        b"a.",
        b"a.lock",
        b"a.lock/b",
        b"a//b",
        b"a b",
        b"@",
        b"a@{b",
        b"@{",
        b"a\\b",
        b"\xff",
        b"a~",
        b"a.b",
        b"a/.b",
        b"a/",
        b"-a",
        b"a*",
        b"{a",
        b"a./b",
        b"\x1f",
        b"\x7f",
    ],
)
def test_reference_names_are_judged_as_git_judges_them(repository: Repository, name: bytes) -> None:
    assert valid_ref_name(b"refs/" + name) == repository.accepts("check-ref-format", b"refs/" + name)

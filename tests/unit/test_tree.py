import io
import tarfile
from pathlib import PurePosixPath as P

from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.tree import Folder, Tree, TreeFile, archive

names = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,3}\.x", fullmatch=True).map(P)
trees = st.builds(
    Tree, st.dictionaries(names, st.builds(TreeFile, st.binary(max_size=20), st.sampled_from([0o644, 0o755])))
)


@given(trees)
def test_an_archive_holds_the_tree_sorted_and_owned_by_root(tree: Tree) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(tree, epoch=7))) as tar:
        members = tar.getmembers()
        files = {P(m.name): tar.extractfile(m).read() for m in members if m.isfile()}  # type: ignore[union-attr]

    assert files == {path: file.content for path, file in tree.files.items()}
    assert [P(m.name) for m in members] == sorted(P(m.name) for m in members)
    assert {(m.uid, m.gid, m.uname, m.mtime) for m in members} == {(0, 0, "", 7)}


def test_folders_keep_the_mode_and_owner_they_have() -> None:
    tree = Tree({P("etc/postfix/main.cf"): TreeFile(b""), P("new/x"): TreeFile(b"")})

    with tarfile.open(
        fileobj=io.BytesIO(archive(tree, epoch=0, existing={P("etc/postfix"): Folder(0o750, 0, 12)}))
    ) as tar:
        modes = {m.name: (m.mode, m.gid) for m in tar.getmembers() if m.isdir()}

    assert modes == {".": (0o755, 0), "etc": (0o755, 0), "etc/postfix": (0o750, 12), "new": (0o755, 0)}


@given(trees)
def test_the_digest_does_not_depend_on_the_order_in_which_files_were_added(tree: Tree) -> None:
    backwards = Tree(dict(reversed(list(tree.files.items()))))

    assert backwards.digest() == tree.digest()

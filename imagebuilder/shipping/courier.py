"""Who uploads: a name that lasts as long as the store, and one upload to a place at a time. Owns STORE/uploads."""

import contextlib
import fcntl
import getpass
import hashlib
import secrets
import socket
from collections.abc import Iterator

from imagebuilder.errors import ImagebuilderError
from imagebuilder.store.folder import Store


@contextlib.contextmanager
def courier(store: Store, place: str) -> Iterator[str]:
    """Yield the name, in one word, by which a far machine knows what this store has left running there.

    While it is held nobody else of this store uploads to *place*; raises ImagebuilderError when somebody does.
    """
    folder = store.root / "uploads"
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((folder / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.lock").open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileExistsError), (folder / "name").open("x") as file:
                file.write(f"{getpass.getuser()}@{socket.gethostname()}/{secrets.token_hex(4)}")
            name = (folder / "name").read_text()
        except BlockingIOError:
            raise ImagebuilderError(
                f"{place} is being written by another upload of this machine", hint="wait until that has ended"
            ) from None
        except OSError as error:
            raise ImagebuilderError(f"{folder} can't be used: {str(error.strerror).lower()}") from None
        yield name

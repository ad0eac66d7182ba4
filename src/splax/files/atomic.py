"""Writes files that are whole or absent, whenever the program is stopped."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path to write to; the file is renamed to ``path`` when the block ends without an error.

    Missing parent folders are made. The temporary file is in the folder of ``path`` and has its suffix. On an
    error it is removed, and a file that was at ``path`` stays. A file that is replaced keeps its permissions.

    Args:
        path: file to write.

    Raises:
        ValueError: if the file cannot be written, e.g. ``path`` is a folder, or the disk is full.
    """
    # A symbolic link stays: the file that it points to is replaced.
    target = Path(os.path.realpath(os.path.expanduser(path)))
    temporary = target.with_name(f".splax-{secrets.token_hex(6)}{target.suffix}")
    try:
        if target.is_dir():
            raise ValueError(f"{path} is a folder; give the path of a file in it.")
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with suppress(OSError):  # there is no file to replace, or its owner is another
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        os.replace(temporary, target)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{path} cannot be written: {target.parent} is not a folder.") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes all bytes to a file, or nothing.

    Args:
        path: file to write.
        data: bytes of the file.

    Raises:
        ValueError: if the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)

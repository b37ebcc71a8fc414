"""The participant's key: Ed25519, made here, and its private half never leaves."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client_sdk import wire
from client_sdk.errors import ProfileInvalid


class Key:
    """An Ed25519 key pair (RFC 8032).

    Example:
        >>> key = Key.generate()
        >>> len(wire.unb64(key.public)), len(wire.unb64(key.sign(b"message")))
        (32, 64)
    """

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    def __repr__(self) -> str:
        return f"Key(public={self.public!r})"

    @classmethod
    def generate(cls) -> Key:
        """A new key from the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Key:
        """Read a key file.

        Raises:
            ProfileInvalid: when it holds no Ed25519 key, or others than its owner may read it.
        """
        if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            mode = stat.filemode(path.stat().st_mode)
            raise ProfileInvalid(f"Expected {path} to be its owner's alone. Received: {mode}")
        try:
            private = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except ValueError:
            raise ProfileInvalid(f"Expected a private key in {path}. Received: none") from None
        if not isinstance(private, Ed25519PrivateKey):
            kind = type(private).__name__
            raise ProfileInvalid(f"Expected an Ed25519 key in {path}. Received: {kind}")
        return cls(private)

    def save(self, path: Path) -> None:
        """Write the key file, durable and readable by its owner alone."""
        content = self._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_private(path, content)

    @property
    def public(self) -> str:
        """The public half, 32 bytes in base64url."""
        return wire.b64(self._private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> str:
        """Signature over `message`, 64 bytes in base64url."""
        return wire.b64(self._private.sign(message))


def write_private(path: Path, content: bytes) -> None:
    """Replace a file at one stroke, durable, readable by its owner alone from its first byte."""
    # Two may write the same file at a time; the last one's is there then, and whole.
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames within a folder durable, where the system knows how."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

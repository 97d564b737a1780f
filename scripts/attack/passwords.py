"""Secrets in a storage's URL, in all places where it can have them: nobody may see them again."""

import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from damage import SEARCH, command
from optuna.storages import RDBStorage

FORMS = (
    "{driver}://me:{secret}@127.0.0.1:1/db",
    "{driver}://:{secret}@127.0.0.1:1/db",
    "{driver}://me:{odd}@127.0.0.1:1/db",
    "{driver}://me@127.0.0.1:1/db?password={secret}",
    "{driver}://me@127.0.0.1:1/db?sslmode=require&sslpassword={secret}&application_name=x",
    "{driver}://127.0.0.1:1/db?user=me&passwd={secret}",
    "{driver}://me:{secret}@127.0.0.1:1/db?ssl_key_password={secret}",
    "{driver}:///?odbc_connect=DRIVER%3Dx%3BUID%3Dme%3BPWD%3D{secret}",
    "{driver}://me:{secret}@[::1]:1/db",
    "{driver}://me:{secret}@host with spaces/db",
    "{driver}://me:{secret}",
    "{driver}://me@127.0.0.1:1/db?PASSWORD={secret}&token={secret}",
    " {driver}://me:{secret}@127.0.0.1:1/db",
    "{driver}:/me:{secret}@127.0.0.1:1/db",
    "{driver}://me:{secret}@127.0.0.1:1/db?access_key={secret}&apikey={secret}",
)
DRIVERS = ("postgresql", "postgresql+psycopg2", "mysql+pymysql", "mssql+pyodbc", "oracle", "redis",
           "nosuch", "sqlite")  # fmt: skip
ODD = ("%40", "/", "?", "#", "@", ":", "%", "&", " ", "'", "ü")


def told(rng: random.Random) -> tuple[str, str]:
    """A search with a URL that has secrets: in no file, and in no line."""
    secret = f"s3cr{rng.getrandbits(64):x}t"
    odd = f"{secret}{rng.choice(ODD)}{secret}"
    url = rng.choice(FORMS).format(driver=rng.choice(DRIVERS), secret=secret, odd=odd)
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        folder, file = Path(place, "run"), f"sqlite:///{place}/study.db"
        opens = rng.random() < 0.1  # what is kept of a URL is the same for any database
        words = [f"--storage={url}"] if rng.random() < 0.5 else ["--storage", url]
        with mock.patch.dict(os.environ, {"LRTUNE_STORAGE_WAIT": "0"}):
            stand_in = mock.patch("lrtune.search.database.RDBStorage", lambda _: RDBStorage(file))
            if opens and url.startswith(tuple(f"{d}://" for d in DRIVERS[:5])):
                stand_in.start()
            try:
                words = [*words, "--out", str(folder), "--no-confirm"]
                end, defect = command(SEARCH, *words, seconds=600, keep=lines)
                for line in ("show", "show --json", "report", "export", "confirm"):
                    if (folder / "run.json").exists():
                        found = command(line, folder, keep=lines)[1]
                        defect = defect or found
            finally:
                mock.patch.stopall()
        seen = ["output" for line in lines if secret in line]
        for path in Path(place).rglob("*"):
            if path.is_file() and path.name != "study.db" and secret.encode() in path.read_bytes():
                seen.append(path.name)
        if seen:
            defect = f"{url}: told in {', '.join(seen)}: {[x for x in lines if secret in x][:1]}"
    return end, defect


ATTACKS: dict[str, Callable[[random.Random], tuple[str | list[str], str]]] = {"secrets": told}
